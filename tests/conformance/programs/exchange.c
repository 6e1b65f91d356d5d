// Standard input to a socket, and what comes from it to standard output, each to its end: exchange PATH, or exchange
// vsock:PORT of the host's. exchange serve:PORT is a TCP server that sends back what it gets. busybox has neither: its nc
// lets one connection wait.

#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <signal.h>
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

static int serve(unsigned int port)
{
	struct sockaddr_in6 all = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int sock = socket(AF_INET6, SOCK_STREAM, 0), client;

	signal(SIGCHLD, SIG_IGN);
	if (sock < 0 || bind(sock, (struct sockaddr *)&all, sizeof(all)) || listen(sock, 1024)) {
		perror("serve");
		return 1;
	}
	for (;;) {
		client = accept(sock, NULL, NULL);
		if (!fork())
			_exit(copy(client, client));
		close(client);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST };
	int sock, error, status;
	pid_t writer;

	if (argc != 2)
		return 2;
	if (!strncmp(argv[1], "serve:", 6))
		return serve((unsigned int)strtoul(argv[1] + 6, NULL, 0));
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
