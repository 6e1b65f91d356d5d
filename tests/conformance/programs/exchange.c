// Standard input to a socket, and what comes from it to standard output, each to its end: exchange PATH, or exchange
// vsock:PORT of the host's. busybox has no such program.

#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int copy(int from, int to)
{
	static char piece[65536];
	ssize_t got, put, done;

	while ((got = read(from, piece, sizeof(piece))) > 0) {
		for (done = 0; done < got; done += put) {
			put = write(to, piece + done, (size_t)(got - done));
			if (put <= 0)
				return 1;
		}
	}
	return got < 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST };
	int sock, error, status;
	pid_t writer;

	if (argc != 2)
		return 2;
	if (!strncmp(argv[1], "vsock:", 6)) {
		host.svm_port = (unsigned int)strtoul(argv[1] + 6, NULL, 0);
		sock = socket(AF_VSOCK, SOCK_STREAM, 0);
		error = connect(sock, (struct sockaddr *)&host, sizeof(host));
	} else {
		strncpy(path.sun_path, argv[1], sizeof(path.sun_path) - 1);
		sock = socket(AF_UNIX, SOCK_STREAM, 0);
		error = connect(sock, (struct sockaddr *)&path, sizeof(path));
	}
	if (error) {
		perror(argv[1]);
		return 1;
	}
	writer = fork();
	if (!writer) {
		error = copy(0, sock);
		shutdown(sock, SHUT_WR);
		_exit(error);
	}
	error = copy(sock, 1);
	return writer < 0 || error || waitpid(writer, &status, 0) < 0 || status;
}
