// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-face 3 [NAME=VALUE]...: the proxy process, whose pid on the host is a container's.
 *
 * Host tools (podman cp and top, CNI, nsenter, /proc/PID/root) join the namespaces of a container's pid. The container
 * runs in a virtual machine, so this process provides namespaces that show the container's files, volumes and network,
 * and nothing else of the host. It lives as long as the container, forwards its signals, and exits with its status.
 *
 * The first process of the program only launches: it enters or makes the namespaces, starts the proxy process as a
 * child of its own parent (CLONE_PARENT), and ends. Arguments:
 *
 *   net=PATH, ipc=PATH, uts=PATH, pid=PATH   the namespace to enter; an empty PATH makes a new one
 *   hostname=NAME
 *   cgroup=PATH   the cgroup directory that the proxy process enters, if allowed, after it has sent P
 *
 * It enters the cgroup late because the kernel may wait ten milliseconds for an RCU grace period. A process that enters
 * a cgroup soon afterwards does not wait again.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the process that holds the machine. Each packet is a letter and its data:
 *
 *   from here   P 0 (int32)        the proxy process runs; the credentials contain its pid (SCM_CREDENTIALS)
 *               F errno (int32), argument   it failed
 *               M errno (int32)    the answer to D; 0: the files are visible
 *               S signal (byte)    the proxy process received this signal
 *   to here     C, with a terminal that becomes the controlling one, so that size changes also arrive as signals
 *               R, with a tree     the root, a detached mount (open_tree(2))
 *               V path, with a tree   a volume and its path
 *                                  (the last may be a FUSE file system whose server answers only after D)
 *               T path             a path whose content only the guest has: shown empty and read-only
 *               D                  no more of them
 *               X status (byte)    the container has ended
 *
 * Everything shown is nosuid, nodev and noexec. The guest wrote it, and no program of the guest may run on the host
 * because a user typed `nsenter`.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#define FAILED 255
#define KILLED (128 + SIGKILL) /* the holder of the machine was killed */
#define PATH_SIZE 4096
#define ROOT "root"
#define MAX_PLACES 256
#define EMPTY_OPTIONS "size=64k,nr_inodes=1024,mode=0555"

struct message {
	char kind;
	char text[PATH_SIZE];
	size_t length; /* of text */
	int fd;        /* or -1 */
};

/* Send the packet's letter and a number. */
static void number_send(int fd, char kind, int32_t number)
{
	struct iovec parts[] = { { &kind, 1 }, { &number, kind == 'S' ? 1 : sizeof(number) } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* Receive the next packet. False: the peer has closed. */
static bool message_receive(int fd, struct message *message)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec parts[] = { { &message->kind, 1 }, { message->text, sizeof(message->text) - 1 } };
	struct msghdr header = {
		.msg_iov = parts,
		.msg_iovlen = 2,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got;

	do
		got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		return false;
	message->length = got - 1;
	message->text[message->length] = '\0';
	message->fd = -1;
	if (header.msg_controllen >= CMSG_LEN(sizeof(int)) && control.header.cmsg_type == SCM_RIGHTS)
		memcpy(&message->fd, CMSG_DATA(&control.header), sizeof(int));
	return true;
}

/* -- mounts ------------------------------------------------------------------------------------------------------- */

static int tree_move(int tree, int at, const char *path)
{
	const unsigned int flags = MOVE_MOUNT_F_EMPTY_PATH | (*path ? 0 : MOVE_MOUNT_T_EMPTY_PATH);

	return syscall(SYS_move_mount, tree, "", at, path, flags) ? -errno : 0;
}

static int tree_restrict(int tree)
{
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
		.propagation = MS_PRIVATE,
	};

	return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) ? -errno : 0;
}

/* Does not apply to mounts below it. */
static int mount_set_read_only(int fd)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) ? -errno : 0;
}

/* Make a mounted directory the root, and unmount the old root. */
static int root_enter(const char *path)
{
	if (chdir(path) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return -errno;
	return 0;
}

/* Enter an empty root, so that nothing of the host is visible from the start. */
static int root_make_empty(void)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mount("", "/", "", MS_REC | MS_PRIVATE, NULL) || mount("empty", "/proc", "tmpfs", flags, EMPTY_OPTIONS))
		return -errno;
	return root_enter("/proc");
}

/* Mount the container's root in the empty one and enter it, so that paths resolve as in the container. */
static int root_begin(int tree)
{
	int error = tree_restrict(tree);

	if (!error && mkdir(ROOT, 0555))
		error = -errno;
	if (!error)
		error = tree_move(tree, AT_FDCWD, ROOT);
	if (!error && chroot(ROOT))
		error = -errno;
	return error;
}

/*
 * Make the container's root ours. After an error, unmount everything shown: with a partial view, `podman cp` would
 * write a volume's files into the container's layer.
 */
static int root_finish(int empty, int error)
{
	if (fchdir(empty) || chroot("."))
		return -errno;
	if (error) {
		umount2(ROOT, MNT_DETACH);
		return error;
	}
	return root_enter(ROOT);
}

static int empty_make(void)
{
	int context = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), tree = -1;

	if (context >= 0 && !syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "64k", 0) &&
	    !syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "0555", 0) &&
	    !syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		tree = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	if (tree < 0)
		tree = -errno;
	if (context >= 0)
		close(context);
	return tree;
}

struct view {
	dev_t devices[MAX_PLACES]; /* of the empty mounts */
	int places[MAX_PLACES];    /* descriptors of these mounts, made read-only at the end */
	size_t count;
};

/* Whether it is on one of the empty mounts, where only we create files. */
static bool is_ours(int fd, const struct view *view)
{
	struct stat info;

	if (fstat(fd, &info))
		return false;
	for (size_t i = 0; i < view->count; i++) {
		if (view->devices[i] == info.st_dev)
			return true;
	}
	return false;
}

/*
 * Open a mount point: an existing path, or on an empty mount one that is created now. Links cannot lead outside the
 * container's root, and the guest cannot make us create anything in its files.
 */
static int point_open(const struct view *view, const char *path, mode_t kind)
{
	char parent[PATH_SIZE], *slash;
	int fd = open(path, O_PATH | O_CLOEXEC), above;

	if (fd >= 0 || errno != ENOENT)
		return fd < 0 ? -errno : fd;
	snprintf(parent, sizeof(parent), "%s", path);
	for (slash = parent + strlen(parent); slash > parent && slash[-1] == '/';)
		*--slash = '\0';
	slash = strrchr(parent, '/');
	if (!slash || slash == parent) /* directly below the root, where we create nothing */
		return -ENOENT;
	*slash = '\0';
	above = point_open(view, parent, S_IFDIR);
	if (above < 0)
		return above;
	if (!is_ours(above, view)) {
		close(above);
		return -ENOENT;
	}
	if (kind == S_IFDIR ? mkdirat(above, slash + 1, 0555) : mknodat(above, slash + 1, S_IFREG | 0444, 0)) {
		fd = -errno;
		close(above);
		return fd;
	}
	fd = openat(above, slash + 1, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	close(above);
	return fd;
}

static int volume_show(const struct view *view, const char *path, int tree)
{
	struct statx info;
	int point, error;

	/* Do not sync: the FUSE server for the container's processes does not answer yet. */
	if (statx(tree, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &info))
		return -errno;
	error = tree_restrict(tree);
	if (error)
		return error;
	point = point_open(view, path, info.stx_mode & S_IFMT);
	if (point < 0)
		return point;
	error = tree_move(tree, point, "");
	close(point);
	return error;
}

static int place_show(struct view *view, const char *path)
{
	int point, tree, error;
	struct stat info;

	if (view->count == MAX_PLACES)
		return -E2BIG;
	point = point_open(view, path, S_IFDIR);
	if (point < 0)
		return point;
	tree = empty_make();
	error = tree < 0 ? tree : tree_restrict(tree);
	if (!error && fstat(tree, &info))
		error = -errno;
	if (!error)
		error = tree_move(tree, point, "");
	close(point);
	if (error) {
		if (tree >= 0)
			close(tree);
		return error;
	}
	view->devices[view->count] = info.st_dev;
	view->places[view->count++] = tree;
	return 0;
}

static int part_show(struct view *view, const struct message *message, bool *has_root)
{
	switch (message->kind) {
	case 'C':
		return ioctl(message->fd, TIOCSCTTY, 0) ? -errno : 0;
	case 'R':
		if (*has_root || message->fd < 0)
			return -EINVAL;
		*has_root = true;
		return root_begin(message->fd);
	case 'V':
		return *has_root && message->fd >= 0 ? volume_show(view, message->text, message->fd) : -EINVAL;
	case 'T':
		return *has_root ? place_show(view, message->text) : -EINVAL;
	default:
		return -EINVAL;
	}
}

/* Process packets until D: the container's files and its terminal. Returns the first error. */
static int view_receive(int fd, struct message *message)
{
	static struct view view;
	const int empty = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool has_root = false;
	int error = empty < 0 ? -errno : 0;

	while (message->kind != 'D') {
		if (!error)
			error = part_show(&view, message, &has_root);
		if (message->fd >= 0)
			close(message->fd);
		if (!message_receive(fd, message))
			return -EPIPE;
	}
	for (size_t i = 0; i < view.count; i++) {
		int failed = mount_set_read_only(view.places[i]);

		error = error ? error : failed;
		close(view.places[i]);
	}
	if (has_root)
		error = root_finish(empty, error);
	close(empty);
	return error;
}

/* -- the proxy process ------------------------------------------------------------------------------------------ */

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Drop all rights: from now on the process only waits, reports signals, and exits. */
static void rights_drop(void)
{
	static const struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(poll), ALLOW(read), ALLOW(recvmsg), ALLOW(sendmsg), ALLOW(close), ALLOW(exit_group),
		ALLOW(restart_syscall), ALLOW(rt_sigreturn),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	const struct sock_fprog program = { .len = sizeof(rules) / sizeof(rules[0]), .filter = (struct sock_filter *)rules };
	const struct { uint32_t version; int pid; } header = { 0x20080522, 0 }; /* linux/capability.h, version 3 */
	const uint32_t none[6] = { 0 };

	for (int capability = 0; !prctl(PR_CAPBSET_DROP, capability); capability++)
		;
	syscall(SYS_capset, &header, none);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void signal_tell(int fd, int signals)
{
	struct signalfd_siginfo info;

	if (read(signals, &info, sizeof(info)) == sizeof(info))
		number_send(fd, 'S', info.ssi_signo);
}

/* Run until the container ends. Returns its status. */
static int face_run(int fd, int signals)
{
	static struct message message;
	struct pollfd ready[] = { { .fd = fd, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	bool shown = false;
	int error;

	for (;;) {
		if (poll(ready, 2, -1) < 0)
			continue;
		if (ready[1].revents)
			signal_tell(fd, signals);
		if (!ready[0].revents)
			continue;
		if (!message_receive(fd, &message))
			return KILLED;
		if (message.kind == 'X')
			return message.length ? (unsigned char)message.text[0] : FAILED;
		if (shown)
			continue;
		shown = true;
		error = view_receive(fd, &message);
		if (error == -EPIPE)
			return KILLED;
		number_send(fd, 'M', error);
		rights_drop();
	}
}

static int signals_open(void)
{
	static const int left[] = { SIGCHLD, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t set;

	signal(SIGCHLD, SIG_IGN); /* processes that join our namespaces may leave children to process 1 */
	sigfillset(&set);
	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++)
		sigdelset(&set, left[i]);
	sigprocmask(SIG_SETMASK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* -- launching -------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int flag;
} namespaces[] = {
	{ "net=", CLONE_NEWNET },
	{ "ipc=", CLONE_NEWIPC },
	{ "uts=", CLONE_NEWUTS },
	{ "pid=", CLONE_NEWPID },
};

static int namespace_enter(const char *argument)
{
	for (size_t i = 0; i < sizeof(namespaces) / sizeof(namespaces[0]); i++) {
		const size_t length = strlen(namespaces[i].name);
		int fd, failed;

		if (strncmp(argument, namespaces[i].name, length))
			continue;
		if (!argument[length])
			return unshare(namespaces[i].flag) ? -errno : 0;
		fd = open(argument + length, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		failed = setns(fd, namespaces[i].flag) ? -errno : 0;
		close(fd);
		return failed;
	}
	if (!strncmp(argument, "hostname=", 9))
		return argument[9] && sethostname(argument + 9, strlen(argument + 9)) ? -errno : 0;
	return -EINVAL;
}

/* Open the file of a cgroup to which a process writes its pid; -1: not possible. */
static int cgroup_open(const char *path)
{
	int folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), file;

	if (folder < 0)
		return -1;
	file = openat(folder, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	close(folder);
	return file;
}

static void cgroup_enter(int file)
{
	ssize_t written;

	if (file < 0)
		return;
	written = write(file, "0", 1);
	(void)written; /* the holder of the machine also tries, and reports errors */
	close(file);
}

static int launch_fail(int fd, const char *what, int error)
{
	const char kind = 'F';
	const int32_t number = error;
	struct iovec parts[] = {
		{ (void *)&kind, 1 },
		{ (void *)&number, sizeof(number) },
		{ (void *)what, strlen(what) },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 3 };

	sendmsg(fd, &message, MSG_NOSIGNAL);
	return FAILED;
}

int main(int argc, char *argv[])
{
	int fd, signals, error, cgroup = -1;
	long pid;

	if (argc < 2 || (fd = atoi(argv[1])) != 3) {
		fprintf(stderr, "usage: %s 3 [NAME=VALUE]...\n", argv[0]);
		return FAILED;
	}
	/* Close what the caller left open, such as a pipe whose reader waits for its end. */
	close_range(fd + 1, ~0U, 0);
	for (int i = 2; i < argc; i++) {
		if (!strncmp(argv[i], "cgroup=", 7)) {
			cgroup = cgroup_open(argv[i] + 7);
			continue;
		}
		error = namespace_enter(argv[i]);
		if (error)
			return launch_fail(fd, argv[i], error);
	}
	signals = signals_open();
	if (signals < 0)
		return launch_fail(fd, "signalfd", -errno);
	/* No exit signal in the flags: with CLONE_PARENT the child uses ours, which suits a child of our parent. */
	pid = syscall(SYS_clone, CLONE_PARENT | CLONE_NEWNS, NULL, NULL, NULL, NULL);
	if (pid < 0)
		return launch_fail(fd, "clone", -errno);
	if (pid)
		return 0;
	setsid();
	error = root_make_empty();
	if (error)
		return launch_fail(fd, "an empty root", error);
	number_send(fd, 'P', 0);
	cgroup_enter(cgroup);
	return face_run(fd, signals);
}
