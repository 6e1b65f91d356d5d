// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-face 3 [NAME=VALUE]...: the process whose pid is a container's on the host.
 *
 * Tools of the host (podman cp and top, CNI, nsenter, /proc/PID/root) join the namespaces of a container's pid. The
 * container is in a virtual machine, so this process has namespaces that look like the container's from the host: its files
 * and volumes, its network, and nothing of the host's. It lives as long as the container: it passes its signals on, and
 * ends with its status.
 *
 * The first process of the program is only the launcher: it enters or makes the namespaces, starts the face as a child of
 * its own parent (CLONE_PARENT), and ends. Arguments: net=PATH, ipc=PATH, uts=PATH, pid=PATH, an empty PATH
 * makes a new namespace; hostname=NAME; cgroup=PATH, the directory of a control group that the face enters once it has said
 * that it is there, if it may: the kernel may wait ten milliseconds for a grace period of RCU, as it will not for whoever
 * enters a group soon afterwards.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the process that holds the machine. Each packet is a letter and its data:
 *
 *   from here   P 0 (int32)        the face is there; its pid is that of the credentials (SCM_CREDENTIALS)
 *               F errno (int32), argument   it cannot
 *               M errno (int32)    the answer to D: 0, the files are shown
 *               S signal (byte)    the face got this signal
 *   to here     C, with a terminal that becomes the controlling one: its changes of size are signals, too
 *               R, with a tree     the root, a detached mount (open_tree(2))
 *               V path, with a tree   a volume, and where
 *                                  (the last may be a FUSE file system whose server answers only after D)
 *               T path             a place whose content only the guest has: empty, read-only
 *               D                  no more of them
 *               X status (byte)    the container has ended
 *
 * Whatever is shown is nosuid, nodev and noexec: a guest wrote it, and a program of the guest's must not run on the host
 * because somebody typed `nsenter`.
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
#define KILLED (128 + SIGKILL) /* of whoever held the machine */
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

/* The packet's letter and a number behind it. */
static void number_send(int fd, char kind, int32_t number)
{
	struct iovec parts[] = { { &kind, 1 }, { &number, kind == 'S' ? 1 : sizeof(number) } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* The next packet: false, the other end is gone. */
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

/* Not what is mounted below it. */
static int mount_set_read_only(int fd)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) ? -errno : 0;
}

/* Make a mounted directory the root, and unmount the old one. */
static int root_enter(const char *path)
{
	if (chdir(path) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return -errno;
	return 0;
}

/* An empty root, so that from the first moment on there is nothing of the host's here. */
static int root_make_empty(void)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mount("", "/", "", MS_REC | MS_PRIVATE, NULL) || mount("empty", "/proc", "tmpfs", flags, EMPTY_OPTIONS))
		return -errno;
	return root_enter("/proc");
}

/* Put the container's root into the empty one, and have paths mean what they mean to the container. */
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
 * The container's root becomes ours; or, after an error, all goes that was shown: half a view would have `podman cp` write
 * a volume's files into the container's layer.
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
	dev_t devices[MAX_PLACES]; /* of the empty places */
	int places[MAX_PLACES];    /* descriptors of their mounts, read-only at the end */
	size_t count;
};

/* Is it on one of the empty places, where we alone make files? */
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
 * A mount point: what is there, and on an empty place what is made now. Links lead nowhere but into the root that we have
 * already, and the guest cannot make us create anything in its files.
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
	if (!slash || slash == parent) /* right below the root, which is not ours */
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

	/* Without asking a server: that of the processes does not answer yet */
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

/* What comes until D: the files as the container sees them, and its terminal. The error is that of the first that failed. */
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

/* -- the face ----------------------------------------------------------------------------------------------------- */

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* From now on it waits, tells of signals, and ends; nothing else. */
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

/* Until the container has ended; its status. */
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

	signal(SIGCHLD, SIG_IGN); /* who joins our namespaces may leave children to process 1 */
	sigfillset(&set);
	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++)
		sigdelset(&set, left[i]);
	sigprocmask(SIG_SETMASK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* -- the launcher ------------------------------------------------------------------------------------------------- */

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

/* The file of a control group to which a process writes its number, or -1. */
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
	(void)written; /* whoever holds the machine tries, too, and says what is wrong */
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
	/* What the caller left open, such as a pipe whose reader waits for its end, must not stay so with us */
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
	/* Its exit signal is ours, that of a child of our parent's, which it is */
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
