// SPDX-License-Identifier: Apache-2.0
/* Makes each call that has a path with each kind of wrong path, and prints what it returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <utime.h>

#include "report.h"

#define KERNEL ((char *)0xffff888000000000)

struct call {
	const char *name;
	long (*make)(int directory, const char *path);
};

static char buffer[4096], name256[300], path4096[5000];
static int start, watches, opened, changed = 1; /* changed: by a call that succeeded */

#define CALL_WITH(what, name, ...)                       \
	static long what(int d, const char *p)           \
	{                                                \
		(void)d;                                 \
		return syscall(SYS_##name, __VA_ARGS__); \
	}
#define SIMPLE(name, ...) CALL_WITH(do_##name, name, __VA_ARGS__)

static struct stat status;
static struct statfs file_system;
static struct open_how how = { .flags = O_RDWR | O_CREAT, .mode = 0644 };
static struct open_how how_link = { .flags = O_RDONLY, .resolve = RESOLVE_NO_SYMLINKS };
static struct statx statx_status;
static char *const arguments[] = { "program", NULL };

SIMPLE(open, p, O_RDONLY)
CALL_WITH(open_for_writing, open, p, O_WRONLY)
CALL_WITH(open_and_make, open, p, O_WRONLY | O_CREAT, 0644)
CALL_WITH(open_new, open, p, O_WRONLY | O_CREAT | O_EXCL, 0644)
SIMPLE(creat, p, 0644)
SIMPLE(openat, d, p, O_RDONLY)
CALL_WITH(openat_new, openat, d, p, O_RDWR | O_CREAT | O_EXCL, 0644)
CALL_WITH(openat_directory, openat, d, p, O_RDWR)
SIMPLE(openat2, d, p, &how, sizeof(how))
CALL_WITH(openat2_without_links, openat2, d, p, &how_link, sizeof(how_link))
SIMPLE(stat, p, &status)
SIMPLE(lstat, p, &status)
SIMPLE(newfstatat, d, p, &status, 0)
SIMPLE(statx, d, p, 0, STATX_BASIC_STATS, &statx_status)
SIMPLE(access, p, W_OK)
CALL_WITH(access_exec, access, p, X_OK)
CALL_WITH(access_mode, access, p, 8)
SIMPLE(faccessat, d, p, W_OK)
CALL_WITH(faccessat_mode, faccessat, d, p, 8)
SIMPLE(faccessat2, d, p, W_OK, AT_EACCESS)
SIMPLE(readlink, p, buffer, sizeof(buffer))
SIMPLE(readlinkat, d, p, buffer, sizeof(buffer))
SIMPLE(truncate, p, 3)
SIMPLE(chdir, p)
SIMPLE(chroot, p)
SIMPLE(statfs, p, &file_system)
SIMPLE(mkdir, p, 0755)
SIMPLE(mkdirat, d, p, 0755)
SIMPLE(mknod, p, S_IFIFO | 0644, 0)
CALL_WITH(mknod_mode, mknod, p, 0170644, 0)
SIMPLE(mknodat, d, p, S_IFREG | 0644, 0)
CALL_WITH(mknodat_mode, mknodat, d, p, 0170644, 0)
CALL_WITH(mknodat_device, mknodat, d, p, S_IFCHR | 0644, 0x103)
SIMPLE(rmdir, p)
SIMPLE(unlink, p)
SIMPLE(unlinkat, d, p, 0)
CALL_WITH(unlinkat_directory, unlinkat, d, p, AT_REMOVEDIR)
SIMPLE(symlink, "target", p)
CALL_WITH(symlink_target, symlink, p, "made")
SIMPLE(symlinkat, "target", d, p)
CALL_WITH(symlinkat_target, symlinkat, p, d, "made")
CALL_WITH(link_from, link, p, "made")
CALL_WITH(link_to, link, "file", p)
CALL_WITH(linkat_from, linkat, d, p, AT_FDCWD, "made", 0)
CALL_WITH(linkat_to, linkat, AT_FDCWD, "file", d, p, 0)
CALL_WITH(linkat_flags, linkat, AT_FDCWD, "file", d, p, 1)
CALL_WITH(rename_from, rename, p, "made")
CALL_WITH(rename_to, rename, "file", p)
CALL_WITH(rename_directory, rename, "empty", p)
CALL_WITH(renameat_from, renameat, d, p, AT_FDCWD, "made")
CALL_WITH(renameat_to, renameat, AT_FDCWD, "file", d, p)
CALL_WITH(renameat_directory, renameat, AT_FDCWD, "empty", d, p)
CALL_WITH(renameat2_from, renameat2, d, p, AT_FDCWD, "made", 0)
CALL_WITH(renameat2_to, renameat2, AT_FDCWD, "file", d, p, 0)
CALL_WITH(renameat2_directory, renameat2, AT_FDCWD, "empty", d, p, 0)
CALL_WITH(renameat2_exclusive, renameat2, AT_FDCWD, "file", d, p, 1)
CALL_WITH(renameat2_exchange, renameat2, AT_FDCWD, "file", d, p, 2)
SIMPLE(chmod, p, 0644)
SIMPLE(fchmodat, d, p, 0644)
SIMPLE(fchmodat2, d, p, 0644, 0)
SIMPLE(chown, p, 7, 8)
SIMPLE(lchown, p, 7, 8)
SIMPLE(fchownat, d, p, 7, 8, 0)
SIMPLE(utime, p, NULL)
CALL_WITH(utime_at, utime, p, (struct utimbuf[]){ { 5, 6 } })
CALL_WITH(utime_bad, utime, p, BAD)
SIMPLE(utimes, p, NULL)
CALL_WITH(utimes_at, utimes, p, ((struct timeval[]){ { 5, 6 }, { 7, 8 } }))
CALL_WITH(utimes_wrong, utimes, p, ((struct timeval[]){ { 5, 6 }, { 7, 1000000 } }))
SIMPLE(futimesat, d, p, NULL)
CALL_WITH(futimesat_at, futimesat, d, p, ((struct timeval[]){ { 5, 6 }, { 7, 8 } }))
CALL_WITH(futimesat_wrong, futimesat, d, p, ((struct timeval[]){ { 5, -1 }, { 7, 8 } }))
SIMPLE(utimensat, d, p, NULL, 0)
CALL_WITH(utimensat_at, utimensat, d, p, ((struct timespec[]){ { 5, 6 }, { 7, 8 } }), 0)
SIMPLE(setxattr, p, "user.new", "value", 5, 0)
CALL_WITH(setxattr_trusted, setxattr, p, "trusted.new", "value", 5, 0)
SIMPLE(lsetxattr, p, "user.new", "value", 5, 0)
CALL_WITH(lsetxattr_trusted, lsetxattr, p, "trusted.new", "value", 5, 0)
CALL_WITH(lsetxattr_other, lsetxattr, p, "other.new", "value", 5, 0)
CALL_WITH(lsetxattr_replace, lsetxattr, p, "user.absent", "value", 5, 2)
CALL_WITH(lsetxattr_create, lsetxattr, p, "user.old", "value", 5, 1)
SIMPLE(getxattr, p, "user.old", buffer, sizeof(buffer))
SIMPLE(lgetxattr, p, "user.old", buffer, sizeof(buffer))
CALL_WITH(lgetxattr_small, lgetxattr, p, "user.old", buffer, 1)
CALL_WITH(lgetxattr_other, lgetxattr, p, "other.old", buffer, 1)
CALL_WITH(lgetxattr_absent, lgetxattr, p, "user.absent", buffer, 1)
SIMPLE(listxattr, p, buffer, sizeof(buffer))
SIMPLE(llistxattr, p, buffer, sizeof(buffer))
CALL_WITH(llistxattr_small, llistxattr, p, buffer, 1)
SIMPLE(removexattr, p, "user.old")
CALL_WITH(removexattr_other, removexattr, p, "other.old")
CALL_WITH(removexattr_trusted, removexattr, p, "trusted.old")
SIMPLE(lremovexattr, p, "user.old")
CALL_WITH(lremovexattr_absent, lremovexattr, p, "user.absent")
CALL_WITH(lremovexattr_other, lremovexattr, p, "other.old")
CALL_WITH(lremovexattr_trusted, lremovexattr, p, "trusted.old")
SIMPLE(inotify_add_watch, watches, p, 0x100)
SIMPLE(execve, p, arguments, NULL)
SIMPLE(execveat, d, p, arguments, NULL, 0)
CALL_WITH(execveat_link, execveat, d, p, arguments, NULL, AT_SYMLINK_NOFOLLOW)
CALL_WITH(umount_it, umount2, p, 0)
CALL_WITH(mount_on, mount, "none", p, "tmpfs", 0, NULL)
CALL_WITH(mount_type, mount, "none", "empty", p, 0, NULL)
CALL_WITH(mount_bind, mount, p, "empty", NULL, 4096, NULL)

#define ROW(name) { #name, do_##name }
#define OTHER(name) { #name, name }

static const struct call calls[] = {
	ROW(open), OTHER(open_for_writing), OTHER(open_and_make), OTHER(open_new), ROW(creat), ROW(stat), ROW(lstat), ROW(access),
	OTHER(access_exec), OTHER(access_mode), ROW(readlink), ROW(truncate), ROW(chdir), ROW(chroot), ROW(statfs), ROW(mkdir),
	ROW(mknod), OTHER(mknod_mode), ROW(rmdir), ROW(unlink), ROW(symlink), OTHER(symlink_target), OTHER(link_from),
	OTHER(link_to), OTHER(rename_from), OTHER(rename_to), OTHER(rename_directory), ROW(chmod), ROW(chown), ROW(lchown),
	ROW(utime), OTHER(utime_at), OTHER(utime_bad), ROW(utimes), OTHER(utimes_at), OTHER(utimes_wrong), ROW(setxattr),
	OTHER(setxattr_trusted), ROW(lsetxattr), OTHER(lsetxattr_trusted), OTHER(lsetxattr_other), OTHER(lsetxattr_replace),
	OTHER(lsetxattr_create), ROW(getxattr), ROW(lgetxattr), OTHER(lgetxattr_small), OTHER(lgetxattr_other),
	OTHER(lgetxattr_absent), ROW(listxattr), ROW(llistxattr), OTHER(llistxattr_small), ROW(removexattr),
	OTHER(removexattr_other), OTHER(removexattr_trusted), ROW(lremovexattr), OTHER(lremovexattr_absent),
	OTHER(lremovexattr_other), OTHER(lremovexattr_trusted), ROW(inotify_add_watch), ROW(execve), OTHER(umount_it),
	OTHER(mount_on), OTHER(mount_type), OTHER(mount_bind),
};
static const struct call at_calls[] = {
	ROW(openat), OTHER(openat_new), OTHER(openat_directory), ROW(openat2), OTHER(openat2_without_links), ROW(newfstatat),
	ROW(statx), ROW(faccessat), OTHER(faccessat_mode), ROW(faccessat2), ROW(readlinkat), ROW(mkdirat), ROW(mknodat),
	OTHER(mknodat_mode), OTHER(mknodat_device), ROW(unlinkat), OTHER(unlinkat_directory), ROW(symlinkat),
	OTHER(symlinkat_target), OTHER(linkat_from), OTHER(linkat_to), OTHER(linkat_flags), OTHER(renameat_from),
	OTHER(renameat_to), OTHER(renameat_directory), OTHER(renameat2_from), OTHER(renameat2_to), OTHER(renameat2_directory),
	OTHER(renameat2_exclusive), OTHER(renameat2_exchange), ROW(fchmodat), ROW(fchmodat2), ROW(fchownat), ROW(futimesat),
	OTHER(futimesat_at), OTHER(futimesat_wrong), ROW(utimensat), OTHER(utimensat_at), ROW(execveat), OTHER(execveat_link),
};

/* The working folder has these; what a call has changed is made again. */
static void make_file(const char *path)
{
	int fd;

	if (!rmdir(path) || unlink(path))
		errno = 0;
	fd = open(path, O_CREAT | O_RDWR | O_EXCL, 0644);
	dprintf(fd, "text");
	close(fd);
	syscall(SYS_setxattr, path, "user.old", "value", 5, 0);
	syscall(SYS_setxattr, path, "trusted.old", "value", 5, 0);
}

static void prepare(void)
{
	static const char *const removed[] = { "made", "sticky/new", "writable/new", "full/new", "loop", "dangling", "link" };

	if (!changed)
		return;
	changed = 0;
	fchdir(start);
	fchmod(start, 0755);
	fchown(start, 0, 0);
	for (unsigned i = 0; i < sizeof(removed) / sizeof(*removed); i++)
		if (unlink(removed[i]))
			rmdir(removed[i]);
	rmdir("absent");
	unlink("absent");
	make_file("file");
	mkdir("dir", 0755);
	chmod("dir", 0755);
	chown("dir", 0, 0);
	make_file("dir/file");
	mkdir("empty", 0755);
	chmod("empty", 0755);
	chown("empty", 0, 0);
	make_file("sticky/file");
	make_file("writable/file");
	make_file("closed/file");
	mknod("full/file", S_IFREG | 0644, 0);
	mkdir("full/dir", 0755);
	symlink("loop", "loop");
	symlink("absent", "dangling");
	symlink("file", "link");
}

static void make_folders(void)
{
	mkdir("sticky", 0777);
	chmod("sticky", 01777);
	mkdir("writable", 0777);
	chmod("writable", 0777);
	mkdir("closed", 0700);
	mkdir("ro", 0755);
	mkdir("full", 0755);
	CALL(mount("none", "ro", "tmpfs", 0, NULL));
	CALL(mkdir("ro/dir", 0755));
	make_file("ro/file");
	CALL(symlink("file", "ro/link"));
	CALL(mount("none", "ro", "tmpfs", MS_REMOUNT | MS_RDONLY, NULL));
	CALL(mount("none", "full", "tmpfs", 0, "nr_inodes=3"));
	CALL(mknod("full/file", S_IFREG | 0644, 0));
	CALL(mkdir("full/dir", 0755));
	CALL(statfs("full", &file_system));
	printf("%ld inodes, %ld free\n", (long)file_system.f_files, (long)file_system.f_ffree);
	CALL(mount("none", "full", "tmpfs", MS_REMOUNT, "nr_inodes=2"));
}

static void print(const struct call *call, const char *where, const char *path, long result)
{
	char shown[20];

	snprintf(shown, sizeof(shown), "%s", path == BAD ? "BAD" : path == KERNEL ? "KERNEL" : path);
	if (result == -1)
		printf("%s %s%s: %s\n", call->name, where, shown, strerrorname_np(errno));
	else
		printf("%s %s%s = %ld\n", call->name, where, shown, result);
}

static void try_path(const struct call *call, int directory, const char *where, const char *path)
{
	long result = call->make(directory, path);

	print(call, where, path, result);
	changed |= result != -1;
	if (result > 2 && (strstr(call->name, "open") || !strcmp(call->name, "creat")))
		close((int)result);
	if (!result && call->make == mount_on)
		umount2(path, MNT_DETACH);
	if (!result && strstr(call->name, "mount"))
		umount2("empty", MNT_DETACH);
}

static const char *const paths[] = {
	BAD, KERNEL, "", ".", "absent", "absent/x", "file", "file/", "file/x", "dir", "dir/", "dir/.", "dir/..", "empty",
	"loop", "loop/x", "link", "link/", "dangling", name256, path4096, "ro", "ro/file", "ro/new", "ro/dir", "ro/link",
	"full/new", "full/file", "full/dir",
};
static const char *const paths_of_others[] = {
	"file", "dir/file", "dir/new", "empty", "closed/file", "closed/new", "closed", "sticky/file", "sticky/new",
	"writable/file", "ro/file", "ro/new",
};
enum { PATHS = sizeof(paths) / sizeof(*paths), OF_OTHERS = sizeof(paths_of_others) / sizeof(*paths_of_others) };

/* Mounts there would hide the folder, or what is in it. */
static int is_left_out(const struct call *call, const char *path)
{
	return (call->make == umount_it || call->make == mount_on || call->make == mount_bind) &&
	       (!strcmp(path, ".") || !strncmp(path, "ro", 2));
}

static void try_call(const struct call *call, int is_at)
{
	pid_t child;

	fflush(stdout);
	changed = 1; /* by the last child */
	prepare();
	child = fork();
	if (!child) {
		for (int i = 0; i < PATHS; i++) {
			prepare();
			if (paths[i] == BAD || paths[i] == KERNEL || !is_left_out(call, paths[i]))
				try_path(call, AT_FDCWD, "", paths[i]);
		}
		prepare();
		if (is_at) {
			try_path(call, 99, "99:", "file");
			try_path(call, opened, "file:", "x");
			try_path(call, start, "start:", "dir");
			try_path(call, 99, "99:", "/nonexistent/x");
			prepare();
		}
		become(NOBODY);
		for (int i = 0; i < OF_OTHERS; i++)
			try_path(call, AT_FDCWD, "other ", paths_of_others[i]);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	memset(name256, 'n', 256);
	memset(path4096, 'p', sizeof(path4096) - 1);
	for (int i = 200; i < 4900; i += 200)
		path4096[i] = '/';
	start = open(".", O_RDONLY | O_DIRECTORY);
	watches = (int)syscall(SYS_inotify_init);
	make_folders();
	prepare();
	opened = open("file", O_RDONLY);
	TRY(mkdir, "/", 0755);
	TRY(rmdir, "/");
	TRY(unlink, "/");
	TRY(open, "/", O_WRONLY | O_CREAT, 0644);
	TRY(symlink, "target", "/");
	TRY(link, "/", "made");
	TRY(rename, "ro/absent", "ro/new");
	TRY(rename, "full/file", "file");
	TRY(setxattr, "full/file", "trusted.new", name256, 200, 0);
	TRY(link, "full/file", "full/new");
	TRY(linkat, AT_FDCWD, "full/file", AT_FDCWD, "full/new", 0);
	TRY(renameat, AT_FDCWD, "ro/file", AT_FDCWD, "ro/new");
	TRY(renameat2, AT_FDCWD, "ro/file", AT_FDCWD, "ro/new", 0);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		try_call(&calls[i], 0);
	for (unsigned i = 0; i < sizeof(at_calls) / sizeof(*at_calls); i++)
		try_call(&at_calls[i], 1);
	return 42;
}
