// SPDX-License-Identifier: Apache-2.0
/*
 * The jail: drops the rights of a machine's process once its files are open, before the guest runs. The process gives
 * up its user and capabilities, all files and networks, and its other namespaces (System V IPC, host name, cgroups).
 *
 * Namespaces, users and Landlock domains belong to threads, and new threads inherit them. So the process must have only
 * one thread.
 */
#include "base/native.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
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
#include <time.h>
#include <unistd.h>

/*
 * struct landlock_ruleset_attr of newer kernels, which the headers may lack: networks (Landlock version 4) and scopes
 * (version 6).
 */
struct ruleset {
	uint64_t fs, net, scoped;
};

enum { LANDLOCK_NET_ALL = 3, LANDLOCK_NET_BIND = 1, LANDLOCK_SCOPE_ALL = 3, LANDLOCK_TRUNCATE = 1 << 14 };

static bool thread_is_only(void)
{
	struct stat st;

	/* Each thread has a directory here, and each directory adds a link to the two of an empty one. */
	return stat("/proc/self/task", &st) == 0 && st.st_nlink == 3;
}

/*
 * A joined thread remains for a moment: pthread_join() returns before the kernel has removed it, which takes longer on
 * a busy host.
 */
static bool thread_wait_only(void)
{
	const struct timespec moment = { .tv_nsec = 1000000 };

	for (int turns = 0; turns < 1000; turns++) {
		if (thread_is_only())
			return true;
		nanosleep(&moment, NULL); /* the step of the loop */
	}
	return thread_is_only();
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* For an unprivileged process: it has all capabilities in its own user namespace, and keeps its user id. */
static int enter_user_namespace(void)
{
	const unsigned int uid = geteuid(), gid = getegid();
	char map[64];
	int err;

	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	err = write_file("/proc/self/uid_map", map);
	if (err)
		return err;
	(void)write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	return write_file("/proc/self/gid_map", map);
}

/* Make an empty file system, read-only unless it will have a file. */
static int make_empty_tree(bool scratch)
{
	const unsigned int attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), tree;

	if (fs < 0)
		return -errno;
	(void)syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", scratch ? "64k" : "4k", 0);
	(void)syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "mode", "0555", 0);
	tree = syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -1 :
	       (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes | (scratch ? 0 : MOUNT_ATTR_RDONLY));
	if (tree < 0)
		tree = -errno;
	close(fs);
	return tree;
}

/* Make the only file, which belongs to the user that the process becomes. A descriptor, or -errno. */
static int make_scratch(int tree, uint32_t uid)
{
	int fd = openat(tree, "scratch", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400), err;

	if (fd < 0 || !uid || fchown(fd, uid, uid) == 0)
		return fd < 0 ? -errno : fd;
	err = -errno;
	close(fd);
	return err;
}

static int enter_empty_root(const struct jail_config *config, int *scratch)
{
	int tree, err = 0;

	if (unshare(CLONE_NEWNS) < 0)
		return -errno;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	tree = make_empty_tree(config->scratch);
	if (tree < 0)
		return tree;
	if (config->scratch) {
		*scratch = make_scratch(tree, config->uid);
		err = *scratch < 0 ? *scratch : 0;
	}
	/* Mount it over the root and make it the root. pivot_root() then stacks the old root on top: unmount that. */
	if (!err && (syscall(SYS_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(tree) < 0 ||
		     syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0))
		err = -errno;
	close(tree);
	return err;
}

/* The rights of each version: 13 at first; REFER, TRUNCATE and device ioctls came later. */
static uint64_t landlock_rights(long version)
{
	static const uint64_t rights[] = { 0, (1ULL << 13) - 1, (1ULL << 14) - 1, (1ULL << 15) - 1, (1ULL << 15) - 1,
					   (1ULL << 16) - 1 };

	return rights[version > 5 ? 5 : version];
}

static int landlock_allow(int ruleset, int folder, uint64_t rights)
{
	const struct landlock_path_beneath_attr below = { .allowed_access = rights, .parent_fd = folder };

	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &below, 0) < 0 ? -errno : 0;
}

int jail_keep_folders(const int *folders, uint32_t n, uint32_t writes)
{
	const uint64_t change = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE |
				LANDLOCK_TRUNCATE;
	const uint64_t wanted = LANDLOCK_ACCESS_FS_READ_FILE | (writes ? change : 0);
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset attr = { 0 };
	int ruleset, err = 0;

	if (version < 1)
		return version ? -errno : -ENOSYS;
	attr.fs = landlock_rights(version);
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(uint64_t), 0);
	if (ruleset < 0)
		return -errno;
	for (uint32_t i = 0; i < n && !err; i++)
		err = landlock_allow(ruleset, folders[i], wanted & attr.fs);
	if (!err && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		err = -errno;
	close(ruleset);
	return err;
}

static int allow_scratch(int ruleset)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), err;

	if (root < 0)
		return -errno;
	err = landlock_allow(ruleset, root, LANDLOCK_ACCESS_FS_READ_FILE);
	close(root);
	return err;
}

/*
 * Enter a domain without rights: opening files, using TCP ports and signalling processes outside all fail. Exceptions:
 * the file that the root directory has, and outgoing connections of a process with a network.
 */
static int enter_landlock(const struct jail_config *config)
{
	const uint64_t ports = config->network ? LANDLOCK_NET_BIND : LANDLOCK_NET_ALL;
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset attr = { 0 };
	int ruleset, err = 0;

	if (version < 1)
		return version ? -errno : -ENOSYS;
	attr.fs = landlock_rights(version);
	attr.net = version >= 4 ? ports : 0;
	attr.scoped = version >= 6 ? LANDLOCK_SCOPE_ALL : 0;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr,
			       version >= 6 ? sizeof(attr) : version >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t), 0);
	if (ruleset < 0)
		return -errno;
	if (config->scratch)
		err = allow_scratch(ruleset);
	if (!err && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		err = -errno;
	close(ruleset);
	return err;
}

/* Lower both the soft and the hard limit. Raising a hard limit again needs a capability. */
static int limit_lower(int what, uint64_t most)
{
	struct rlimit now;

	if (getrlimit(what, &now) < 0)
		return -errno;
	if (now.rlim_max > most)
		now.rlim_max = most;
	now.rlim_cur = now.rlim_max;
	return setrlimit(what, &now) < 0 ? -errno : 0;
}

static int limit_lower_soft(int what, uint64_t most)
{
	struct rlimit now;

	if (getrlimit(what, &now) < 0)
		return -errno;
	if (now.rlim_cur > most)
		now.rlim_cur = most;
	return setrlimit(what, &now) < 0 ? -errno : 0;
}

static int limits_set(const struct jail_config *config)
{
	int err = limit_lower(RLIMIT_CORE, 0);

	if (!err && config->file_size)
		err = (config->grows ? limit_lower_soft : limit_lower)(RLIMIT_FSIZE, config->file_size);
	if (!err && config->files)
		err = limit_lower(RLIMIT_NOFILE, config->files);
	/* The kernel counts all threads of a user, so the limit is only correct for a user with no other process. */
	if (!err && config->uid)
		err = limit_lower(RLIMIT_NPROC, config->threads);
	return err;
}

static int keep_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		data[i].effective &= (uint32_t)(kept >> 32 * i);
		data[i].permitted &= (uint32_t)(kept >> 32 * i);
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* Needs CAP_SETPCAP, so call this before the user changes. */
static void keep_bounding_set(uint64_t kept)
{
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned long cap = 0; cap < 64; cap++)
		if (!(kept >> cap & 1))
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

/* Use system calls: the C library's functions would signal all threads to follow, but there is only this one. */
int jail_become(uint32_t id)
{
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, id, id, id) < 0 ||
	    syscall(SYS_setresuid, id, id, id) < 0)
		return -errno;
	return 0;
}

static void wall_note(struct jail_walls *walls, uint32_t wall, int err)
{
	if (!err) {
		walls->standing |= wall;
	} else if (!walls->first_errno) {
		walls->missing = wall;
		walls->first_errno = -err;
	}
}

static void leave_namespace(struct jail_walls *walls, uint32_t wall, int flag)
{
	wall_note(walls, wall, unshare(flag) < 0 ? -errno : 0);
}

static int raise_file_size(int pid, uint64_t size)
{
	struct rlimit now;

	if (prlimit(pid, RLIMIT_FSIZE, NULL, &now) < 0)
		return -errno;
	if (now.rlim_cur >= size)
		return 0;
	now.rlim_cur = size;
	if (now.rlim_max < size)
		now.rlim_max = size;
	return prlimit(pid, RLIMIT_FSIZE, &now, NULL) < 0 ? -errno : 0;
}

/*
 * Without CAP_SYS_RESOURCE, prlimit(2) requires the process's ids to equal the caller's real ids. This thread assumes
 * these ids for the call. It uses system calls, since the C library would change all threads. A sealed process may not
 * change ids, but it has the capability.
 */
int jail_raise_file_size(int pid, uint32_t uid, uint64_t size)
{
	unsigned int user, group, other, another;
	int err = raise_file_size(pid, size);

	if (err != -EPERM || !uid)
		return err;
	if (syscall(SYS_getresuid, &user, &other, &another) < 0 || syscall(SYS_getresgid, &group, &other, &another) < 0)
		return err;
	(void)!syscall(SYS_setresgid, uid, -1, -1);
	(void)!syscall(SYS_setresuid, uid, -1, -1);
	err = raise_file_size(pid, size);
	(void)!syscall(SYS_setresuid, user, -1, -1);
	(void)!syscall(SYS_setresgid, group, -1, -1);
	return err;
}

/*
 * Opening /proc/PID/pagemap with CAP_SYS_ADMIN lets every later holder of the descriptor read physical page numbers
 * (Documentation/admin-guide/mm/pagemap.rst).
 */
int jail_open_unprivileged(const char *path)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct had[2], data[2];
	int fd, err;

	if (syscall(SYS_capget, &head, had) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		data[i] = had[i];
		data[i].effective = 0;
	}
	if (syscall(SYS_capset, &head, data) < 0)
		return -errno;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	err = fd < 0 ? -errno : 0;
	if (syscall(SYS_capset, &head, had) < 0)
		err = -errno;
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

int jail_enter(const struct jail_config *config, struct jail_walls *walls)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	*walls = (struct jail_walls){ .scratch = -1 };
	if (!thread_wait_only())
		return -EBUSY;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	walls->standing |= JAIL_NO_NEW_PRIVS;
	syscall(SYS_capget, &head, data);
	if (!(data[0].effective & 1u << CAP_SYS_ADMIN))
		wall_note(walls, JAIL_USER_NS, enter_user_namespace());
	if (!config->network)
		leave_namespace(walls, JAIL_NET_NS, CLONE_NEWNET);
	leave_namespace(walls, JAIL_IPC_NS, CLONE_NEWIPC);
	leave_namespace(walls, JAIL_UTS_NS, CLONE_NEWUTS);
	leave_namespace(walls, JAIL_CGROUP_NS, CLONE_NEWCGROUP);
	wall_note(walls, JAIL_FILES, enter_empty_root(config, &walls->scratch));
	wall_note(walls, JAIL_LIMITS, limits_set(config));
	keep_bounding_set(0);
	if (config->uid)
		wall_note(walls, JAIL_USER, jail_become(config->uid));
	wall_note(walls, JAIL_CAPABILITIES, keep_capabilities(0));
	wall_note(walls, JAIL_LANDLOCK, enter_landlock(config));
	wall_note(walls, JAIL_UNDUMPABLE, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0);
	return 0;
}

int jail_reduce(uint64_t capabilities, struct jail_walls *walls)
{
	const struct rlimit none = { 0, 0 };

	*walls = (struct jail_walls){ .scratch = -1 };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	walls->standing |= JAIL_NO_NEW_PRIVS;
	leave_namespace(walls, JAIL_IPC_NS, CLONE_NEWIPC);
	leave_namespace(walls, JAIL_UTS_NS, CLONE_NEWUTS);
	wall_note(walls, JAIL_LIMITS, setrlimit(RLIMIT_CORE, &none) < 0 ? -errno : 0);
	keep_bounding_set(capabilities);
	wall_note(walls, JAIL_CAPABILITIES, keep_capabilities(capabilities));
	wall_note(walls, JAIL_UNDUMPABLE, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0);
	return 0;
}
