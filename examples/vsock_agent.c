// SPDX-License-Identifier: Apache-2.0
/*
 * The guest's half of vsock_rpc.py: runs commands for the host. Static, so that any guest can run it.
 *
 * It listens on port 5000, then says so by connecting to port 5001 of the host (CID 2). Each connection is one call:
 * the length of a command in 32 bits, the command; back come its exit status, the length of its output, the output.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { CALL_PORT = 5000, READY_PORT = 5001, COMMAND_MAX = 64 << 10, OUTPUT_MAX = 1 << 20 };

static char command[COMMAND_MAX + 1], output[OUTPUT_MAX];

static int vsock(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		perror("socket");
		exit(1);
	}
	return fd;
}

/* All of it: 0, or -1 when the peer has gone. */
static int get(int fd, void *to, size_t len)
{
	for (char *at = to; len;) {
		ssize_t n = read(fd, at, len);

		if (n <= 0)
			return -1;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int put(int fd, const void *from, size_t len)
{
	for (const char *at = from; len;) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n < 0)
			return -1;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static void call(int fd)
{
	uint32_t len, answer[2];
	FILE *pipe;
	int status;

	if (get(fd, &len, sizeof(len)) < 0 || len > COMMAND_MAX || get(fd, command, len) < 0)
		return;
	command[len] = 0;
	pipe = popen(command, "r");
	if (!pipe)
		return;
	answer[1] = (uint32_t)fread(output, 1, sizeof(output), pipe);
	status = pclose(pipe);
	answer[0] = (uint32_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	if (put(fd, answer, sizeof(answer)) == 0)
		put(fd, output, answer[1]);
}

int main(void)
{
	struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = CALL_PORT };
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = READY_PORT };
	int listener = vsock(), ready = vsock();

	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 16) < 0 ||
	    connect(ready, (struct sockaddr *)&host, sizeof(host)) < 0) {
		perror("vsock");
		return 1;
	}
	close(ready);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			return 1;
		call(fd);
		close(fd);
	}
}
