// SPDX-License-Identifier: Apache-2.0
/*
 * What pyvmm-fsd gives up before it reads anything that the guest wrote.
 *
 * If the host allows it, the shared directory becomes the root of a mount namespace, so that no other file can be reached.
 * Otherwise (without privileges and user namespaces) a Landlock domain allows to open only files below it. One of the two
 * must succeed.
 */
#include "fs/fsd/fsd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

/* Capabilities of a server: to act as the guest's users, and to do with files what root of the guest may do. */
static const uint64_t caps_needed = 1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_FOWNER |
				    1ULL << CAP_FSETID | 1ULL << CAP_SETGID | 1ULL << CAP_SETUID | 1ULL << CAP_SETFCAP;
/* To open by handle: this allows any file of a file system of which there is a descriptor. */
static const uint64_t caps_handles = 1ULL << CAP_DAC_READ_SEARCH;

/* Restrict the mount: no devices, programs, set-user-id bits, or symbolic links that the host would follow. */
static int tree_restrict(int tree, bool read_only)
{
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW |
			    (read_only ? MOUNT_ATTR_RDONLY : 0),
	};

	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) == 0)
		return 0;
	attr.attr_set &= ~(uint64_t)MOUNT_ATTR_NOSYMFOLLOW; /* kernels before 5.14 do not have it */
	return (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr));
}

/*
 * Mount a copy of the directory's mount, with those below it, over the directory, and make that the root. Mounts that the
 * host makes below the share later are propagated here, too.
 */
static const char *enter_tree(bool read_only)
{
	int tree, old;

	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return "making mounts private";
	tree = (int)syscall(SYS_open_tree, AT_FDCWD, ".", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0)
		return "copying the mount of the share";
	if (tree_restrict(tree, read_only) < 0)
		return "restricting the mount of the share";
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return "mounting the share";
	old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0 || fchdir(tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return "making the share the root";
	if (fchdir(old) < 0 || umount2(".", MNT_DETACH) < 0)
		return "leaving the old root";
	close(old);
	close(tree);
	return chdir("/") < 0 ? "entering the share" : NULL;
}

/*
 * /proc/self/fd as a detached mount, for reopening descriptors inside, where there is no /proc. ".." does not lead out of a
 * detached mount.
 */
static int open_proc_tree(void)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

static int isolate_mounts(int *root, int *proc, bool read_only, struct isolation *out)
{
	int fresh;

	/* Enter the directory first: a new mount namespace adapts the working directory, but no descriptors. */
	out->stage = "entering the share";
	if (fchdir(*root) < 0)
		return -errno;
	out->stage = "a mount namespace";
	if (unshare(CLONE_NEWNS) < 0)
		return -errno;
	out->stage = "opening /proc/self/fd";
	*proc = open_proc_tree();
	if (*proc < 0)
		return -errno;
	out->stage = enter_tree(read_only);
	if (out->stage) {
		int err = -errno;

		close(*proc);
		return err;
	}
	fresh = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fresh < 0)
		return -errno;
	close(*root);
	*root = fresh;
	out->done |= FSD_MOUNT_NS;
	return 0;
}

static int isolate_landlock(int root, int *proc, struct isolation *out)
{
	/* The rights by version of the interface: 13 at first, then REFER and TRUNCATE; ioctls of devices are not handled. */
	static const uint64_t rights[] = { 0, (1ULL << 13) - 1, (1ULL << 14) - 1, (1ULL << 15) - 1 };
	/* MAKE_CHAR stays allowed: a whiteout of overlayfs is a character device node, with the number 0:0. */
	const uint64_t never = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_BLOCK;
	struct landlock_ruleset_attr attr = { 0 };
	struct landlock_path_beneath_attr beneath = { .parent_fd = root };
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	int ruleset, err = 0;

	out->stage = "a Landlock domain";
	if (version < 1)
		return version ? -errno : -ENOSYS;
	attr.handled_access_fs = rights[version > 3 ? 3 : version];
	beneath.allowed_access = attr.handled_access_fs & ~never;
	*proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*proc < 0)
		return -errno;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
	if (ruleset < 0)
		return -errno;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ||
	    syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		err = -errno;
	close(ruleset);
	if (!err)
		out->done |= FSD_LANDLOCK;
	return err;
}

/* Drop all capabilities that are not in `needed`, for good. */
static int caps_drop(uint64_t needed)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned long cap = 0; cap < 64; cap++)
		if (!(needed >> cap & 1))
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* without privileges there is none to drop */
	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	for (uint32_t i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(needed >> 32 * i);
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/*
 * Whether the user namespace has one user: process_spawn() makes such a one. Another one that the VMM was started in, such as
 * podman's for an ordinary user, has more users; there the server acts as each of them, as on a host.
 */
static bool is_only_user(void)
{
	char map[128] = "";
	unsigned int inside, outside, count;
	int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, map, sizeof(map) - 1);
	char *line;

	if (fd >= 0)
		close(fd);
	if (len <= 0 || sscanf(map, "%u %u %u", &inside, &outside, &count) != 3 || count != 1)
		return false;
	line = strchr(map, '\n');
	return !line || !line[1];
}

static void note_namespaces(struct isolation *out)
{
	/* process_spawn() may have made a PID namespace, in which this process has number 1. */
	if (getpid() == 1)
		out->done |= FSD_PID_NS;
	if (is_only_user())
		out->done |= FSD_USER_NS;
	if (unshare(CLONE_NEWNET) == 0)
		out->done |= FSD_NET_NS;
	if (unshare(CLONE_NEWIPC) == 0)
		out->done |= FSD_IPC_NS;
	(void)!unshare(CLONE_NEWUTS);
	(void)!unshare(CLONE_NEWCGROUP);
}

/* Limit descriptors: for open files and lock owners of the guest, for nodes, and some for each queue. */
static void limit_files(struct fs_config *config)
{
	enum { FILES = 4096, KNOWN = 2048, KNOWN_LEAST = 256, OTHERS = 16 * FSD_QUEUES };
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	if (!config->max_files)
		config->max_files = FILES;
	if (!config->max_fds)
		config->max_fds = files.rlim_max / 8 > KNOWN ? KNOWN : KNOWN_LEAST;
	/* Twice: each open file may also have a lock owner, and as many nodes may be pinned. */
	files.rlim_cur = 2 * (rlim_t)config->max_files + 2 * (rlim_t)config->max_fds + OTHERS;
	if (files.rlim_cur > files.rlim_max)
		files.rlim_cur = files.rlim_max;
	files.rlim_max = files.rlim_cur;
	setrlimit(RLIMIT_NOFILE, &files);
}

/* Limit threads to the queues. Only in an own user namespace, since RLIMIT_NPROC counts all processes of a user, and does not
 * apply to root. */
static void limit_threads(const struct isolation *out)
{
	const struct rlimit threads = { FSD_QUEUES + 2, FSD_QUEUES + 2 };

	if (out->done & FSD_USER_NS)
		setrlimit(RLIMIT_NPROC, &threads);
}

int isolate(int *root, int *proc, struct fs_config *config, struct isolation *out)
{
	uint64_t caps = caps_needed | (config->flags & FS_HANDLES ? caps_handles : 0);
	const struct rlimit none = { 0, 0 };
	int err, mounts;

	out->stage = "giving up privileges";
	/* No process of the same user can trace this one, and no core dump has guest memory. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	limit_files(config);
	umask(0);
	note_namespaces(out);
	limit_threads(out);
	mounts = isolate_mounts(root, proc, config->flags & FS_RO, out);
	if (mounts) {
		const char *stage = out->stage;

		err = isolate_landlock(*root, proc, out);
		if (err) {
			out->stage = stage;
			return mounts;
		}
	}
	out->stage = "giving up capabilities";
	/* If there is only one user, the server cannot act as others, and needs no capabilities. */
	return caps_drop(out->done & FSD_USER_NS ? 0 : caps);
}
