// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-broker: stays outside of a machine's jail, and does there what cannot be done inside. A program of its own, so that
 * nothing of the machine's memory is in it.
 *
 * First it is told what it may do (struct broker_msg), by a process that no guest has run in yet. Then it takes requests
 * from that process, which a guest may have taken over: a port of the host, which is answered with a connection to the unix
 * socket of that port. It is given a number, and makes the name of it itself. What is no request is the end, and so is
 * the end of the other process: sockets' names that were made for it are removed, and nothing is left.
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

/* ---- before: what may be done --------------------------------------------------------------------------------------- */

static int be_told(void)
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

/* Of capabilities the one by which a guest reaches sockets that are other users', as its machine could. */
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

/* Signals of the terminal and of who ends a group of processes are the machine's, whose end is this one's. */
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

/* ---- what is asked for ------------------------------------------------------------------------------------------------ */

/* False: there is nobody, or he does not speak as a machine does. */
static bool answer(void)
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

/* Unless something else lies there by now. */
static void remove_names(void)
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
	err = be_told();
	if (!err)
		err = seccomp_enter_process(SECCOMP_BROKER);
	if (!err)
		while (answer())
			;
	remove_names();
	_exit(err && err != -EPIPE);
}
