// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-broker: does for a jailed machine what its process cannot do. It is a program of its own, so that it has no part of
 * the machine's memory.
 *
 * First the machine's process, in which no guest has run yet, tells it what it may do (struct broker_msg). Then it serves
 * requests of that process, which a guest may control by now. A request is a port number, from which the broker makes the
 * name of the unix socket; the answer is a connection to it. The broker ends at an invalid request, or when the machine's
 * process has ended; it removes the names of the machine's sockets at the end.
 */
#include "base/native.h"
#include "vsock/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BROKER_SOCKET = 3, FILES_MAX = 16 };

static struct broker_msg name[BROKER_NAMES];
static uint32_t nnames;
static struct broker_msg go;
static int folder = -1;

/* ---- configuration -------------------------------------------------------------------------------------------------- */

static int config_receive(void)
{
	struct broker_msg msg;
	int fd, err;

	for (;;) {
		err = fd_socket_recv(BROKER_SOCKET, &msg, sizeof(msg), &fd, 1);
		if (err)
			return err;
		msg.text[sizeof(msg.text) - 1] = 0;
		if (msg.op == BROKER_GO) {
			go = msg;
			folder = fd;
			return 0;
		}
		if (fd >= 0)
			close(fd);
		if (msg.op != BROKER_NAME || nnames == BROKER_NAMES)
			return -EPROTO;
		name[nnames++] = msg;
	}
}

/* Keep only CAP_DAC_OVERRIDE: with it the guest reaches sockets of other users, as it could without a jail. */
static void keep_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned long cap = 0; cap < 64; cap++)
		if (cap != CAP_DAC_OVERRIDE)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (syscall(SYS_capget, &head, data) < 0)
		return;
	data[0].effective &= 1u << CAP_DAC_OVERRIDE;
	data[0].permitted &= 1u << CAP_DAC_OVERRIDE;
	data[0].inheritable = data[1].effective = data[1].permitted = data[1].inheritable = 0;
	syscall(SYS_capset, &head, data);
}

/* Ignore signals that are sent to the terminal's process group: the machine handles them, and this process ends with it. */
static void leave_others(void)
{
	const struct rlimit none = { 0, 0 }, files = { FILES_MAX, FILES_MAX };
	static const int theirs[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (size_t i = 0; i < sizeof(theirs) / sizeof(*theirs); i++)
		signal(theirs[i], SIG_IGN);
	for (int fd = 0; fd < 2 && null >= 0; fd++)
		dup2(null, fd);
	if (null > BROKER_SOCKET)
		close(null);
	(void)!chdir("/");
	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_FSIZE, &none);
	setrlimit(RLIMIT_NOFILE, &files);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	keep_capabilities();
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

/* Serve one request. False: the other end is closed, or the request is invalid. */
static bool request_serve(void)
{
	struct vsock_told told;
	struct vsock_ask ask;
	int fd, err;

	if (fd_socket_recv(BROKER_SOCKET, &ask, sizeof(ask), NULL, 0))
		return false;
	if (folder < 0 || (ask.type != VSOCK_TYPE_STREAM && ask.type != VSOCK_TYPE_SEQPACKET))
		return false;
	fd = vsock_reach(folder, go.text, ask.port, ask.type);
	told = (struct vsock_told){ .port = ask.port, .error = fd < 0 ? (uint32_t)-fd : 0 };
	err = fd_socket_send(BROKER_SOCKET, &told, sizeof(told), &fd, fd < 0 ? 0 : 1);
	if (fd >= 0)
		close(fd);
	return !err;
}

/* Remove the names that still belong to the machine's sockets. */
static void names_remove(void)
{
	struct stat st;

	for (uint32_t i = 0; i < nnames; i++)
		if (lstat(name[i].text, &st) == 0 && st.st_dev == name[i].dev && st.st_ino == name[i].ino)
			unlink(name[i].text);
}

int main(void)
{
	int err;

	prctl(PR_SET_NAME, "pyvmm-broker", 0, 0, 0);
	leave_others();
	err = config_receive();
	if (!err)
		err = seccomp_enter_process(SECCOMP_BROKER);
	if (!err)
		while (request_serve())
			;
	names_remove();
	_exit(err && err != -EPIPE);
}
