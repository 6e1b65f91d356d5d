// SPDX-License-Identifier: Apache-2.0
/* Makes, changes and removes files below a folder of a tmpfs, and prints what each call returns. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "report.h"

static char buffer[65536], name256[400], path4096[5000];

static void describe(const char *path)
{
	enum { TMPFS = 0x01021994 }; /* the size of a directory has a meaning there only */
	struct stat s;
	struct statfs fs;
	int sized;

	if (lstat(path, &s)) {
		printf("    %s: %s\n", path, strerrorname_np(errno));
		return;
	}
	sized = !S_ISDIR(s.st_mode) || (!statfs(path, &fs) && fs.f_type == TMPFS);
	printf("    %s: mode %o links %ld size %ld blocks %ld owner %d:%d device %lx\n", path, s.st_mode, (long)s.st_nlink,
	       sized ? (long)s.st_size : 0, (long)s.st_blocks, s.st_uid, s.st_gid,
	       S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode) ? (long)s.st_rdev : 0);
}

static void content(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t size = read(fd, buffer, sizeof(buffer));
	unsigned long sum = 0;

	for (ssize_t i = 0; i < size; i++)
		sum = sum * 31 + (unsigned char)buffer[i];
	printf("    %s has %zd bytes, sum %lx\n", path, size, sum);
	close(fd);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *path)
{
	DIR *dir = opendir(path);
	char *names[100];
	int count = 0;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) && count < 100)
		asprintf(&names[count++], "%s/%d", entry->d_name, entry->d_type);
	qsort(names, count, sizeof(*names), by_name);
	printf("    %s:", path);
	for (int i = 0; i < count; i++)
		printf(" %s", names[i]);
	puts("");
	if (dir)
		closedir(dir);
}

static void make(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);

	if (write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

static void try_open(void)
{
	make("file", "hello");
	TRY(mkdir, "dir", 0755);
	TRY(symlink, "file", "link");
	TRY(symlink, "loop2", "loop1");
	TRY(symlink, "loop1", "loop2");
	TRY(symlink, "nowhere", "dangling");
	TRY(symlink, "dir", "dirlink");
	TRY(open, "file", O_CREAT | O_EXCL | O_WRONLY, 0644);
	TRY(open, "link", O_CREAT | O_EXCL | O_WRONLY, 0644);
	TRY(open, "link", O_RDONLY | O_NOFOLLOW);
	TRY(open, "loop1", O_RDONLY);
	TRY(open, "loop1/x", O_RDONLY);
	TRY(open, "dangling", O_RDONLY);
	TRY(open, "dangling/", O_CREAT | O_WRONLY, 0600);
	TRY(open, "new/", O_CREAT | O_WRONLY, 0600);
	TRY(open, "dir", O_CREAT | O_WRONLY, 0600);
	TRY(open, "dir", O_WRONLY);
	TRY(open, "dir", O_RDWR);
	TRY(open, "dir/", O_RDONLY | O_CREAT, 0600);
	TRY(open, ".", O_RDONLY | O_CREAT, 0600);
	TRY(open, "..", O_WRONLY);
	TRY(open, "file/", O_RDONLY);
	TRY(open, "file/.", O_RDONLY);
	TRY(open, "file/..", O_RDONLY);
	TRY(open, "file/x", O_RDONLY);
	TRY(open, "file", O_RDONLY | O_DIRECTORY);
	TRY(open, "dirlink", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	TRY(open, "link", O_RDONLY | O_DIRECTORY);
	TRY(open, "link/", O_RDONLY);
	TRY(open, "dir", O_CREAT | O_DIRECTORY, 0600);
	TRY(open, "absent/file", O_CREAT | O_WRONLY, 0600);
	TRY(open, name256, O_CREAT | O_WRONLY, 0600);
	TRY(open, path4096, O_RDONLY);
	TRY(open, "", O_CREAT | O_WRONLY, 0600);
	TRY(open, BAD, O_CREAT);
	TRY(openat, 99, "file", O_RDONLY);
	TRY(openat, 1, "file", O_RDONLY);
	TRY(open, "made-by-link", O_CREAT | O_RDWR, 0666);
	TRY(close, 3);
	TRY(open, "dangling", O_CREAT | O_RDWR, 04751);
	TRY(close, 3);
	describe("nowhere");
	TRY(open, "link", O_PATH | O_NOFOLLOW);
	TRY(readlinkat, 3, "", buffer, 100);
	TRY(read, 3, buffer, 1);
	TRY(fcntl, 3, F_GETFL);
	TRY(fcntl, 3, F_SETFL, O_APPEND);
	TRY(ioctl, 3, 0x5401, buffer);
	TRY(fchmod, 3, 0600);
	TRY(ftruncate, 3, 1);
	TRY(lseek, 3, 0, SEEK_SET);
	TRY(close, 3);
	TRY(open, "file", O_PATH | O_RDWR | O_CREAT);
	TRY(write, 3, "x", 1);
	TRY(openat, 3, "", O_RDONLY);
	TRY(openat, 3, "x", O_RDONLY);
	TRY(close, 3);
	TRY(open, ".", O_TMPFILE, 0600);
	TRY(open, ".", O_TMPFILE | O_RDONLY, 0600);
	TRY(open, "file", O_TMPFILE | O_RDWR, 0600);
	TRY(open, ".", O_TMPFILE | O_RDWR, 0640);
	TRY(write, 3, "temporary", 9);
	TRY(linkat, 3, "", AT_FDCWD, "named", AT_EMPTY_PATH);
	TRY(linkat, 3, "", AT_FDCWD, "named2", AT_EMPTY_PATH);
	describe("named");
	content("named");
	TRY(close, 3);
	TRY(open, ".", O_TMPFILE | O_RDWR | O_EXCL, 0640);
	TRY(linkat, 3, "", AT_FDCWD, "named3", AT_EMPTY_PATH);
	TRY(close, 3);
}

static void try_openat2(void)
{
	struct open_how how = { .flags = O_RDONLY }, longer[2] = { { .flags = O_RDONLY }, { .flags = 0 } };
	int dir = open(".", O_PATH);

	mkdir("dir/deep", 0755);
	symlink("../../file", "dir/deep/up");
	symlink("/etc", "dir/absolute");
	TRY(openat2, dir, "file", &how, sizeof(how) - 1);
	TRY(openat2, dir, "file", BAD, sizeof(how));
	TRY(openat2, dir, "file", &how, 5000);
	TRY(openat2, dir, "file", longer, sizeof(longer));
	TRY(close, 4);
	longer[1].flags = 1;
	TRY(openat2, dir, "file", longer, sizeof(longer));
	how.mode = 0600;
	TRY(openat2, dir, "file", &how, sizeof(how));
	how.mode = 0, how.flags = 1ull << 40;
	TRY(openat2, dir, "file", &how, sizeof(how));
	how.flags = O_RDONLY, how.resolve = 1 << 20;
	TRY(openat2, dir, "file", &how, sizeof(how));
	how.resolve = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
	TRY(openat2, dir, "file", &how, sizeof(how));
	how.resolve = RESOLVE_BENEATH;
	TRY(openat2, dir, "../x", &how, sizeof(how));
	TRY(openat2, dir, "dir/../file", &how, sizeof(how));
	TRY(close, 4);
	TRY(openat2, dir, "/etc", &how, sizeof(how));
	TRY(openat2, dir, "dir/absolute", &how, sizeof(how));
	TRY(openat2, dir, "dir/deep/up", &how, sizeof(how));
	TRY(close, 4);
	how.resolve = RESOLVE_NO_SYMLINKS;
	TRY(openat2, dir, "link", &how, sizeof(how));
	TRY(openat2, dir, "dirlink/deep", &how, sizeof(how));
	how.resolve = RESOLVE_IN_ROOT;
	TRY(openat2, dir, "/../../../file", &how, sizeof(how));
	TRY(close, 4);
	TRY(openat2, dir, "dir/absolute", &how, sizeof(how));
	how.resolve = RESOLVE_NO_XDEV;
	TRY(openat2, dir, "dir/deep/up", &how, sizeof(how));
	TRY(close, 4);
	TRY(openat2, dir, "/proc/version", &how, sizeof(how));
	close(dir);
}

static void try_io(void)
{
	struct iovec two[2] = { { "abc", 3 }, { "defg", 4 } }, bad[2] = { { "abc", 3 }, { BAD, 4 } };
	struct iovec in[2] = { { buffer, 3 }, { buffer + 100, 5 } };
	int fd = open("io", O_CREAT | O_RDWR | O_TRUNC, 0644), ro = open("io", O_RDONLY), wo = open("io", O_WRONLY);
	int ap = open("io", O_WRONLY | O_APPEND);

	TRY(write, fd, "0123456789", 10);
	TRY(write, ro, "x", 1);
	TRY(read, wo, buffer, 1);
	TRY(pwrite64, fd, "AB", 2, 20);
	TRY(pread64, fd, buffer, 100, 5);
	TRY(pread64, fd, buffer, 100, 30);
	TRY(pread64, fd, buffer, 1, -1);
	TRY(pread64, fd, BAD, 1, 0);
	TRY(pread64, fd, BAD, 1, 100);
	TRY(pread64, fd, buffer, 1, 0x7fffffffffffffff);
	TRY(pwrite64, fd, buffer, 1, 0x7fffffffffffffff);
	TRY(pwrite64, ro, buffer, 1, 0);
	TRY(read, fd, buffer, 100);
	TRY(lseek, fd, 0, SEEK_CUR);
	TRY(lseek, fd, -3, SEEK_END);
	TRY(lseek, fd, -300, SEEK_END);
	TRY(lseek, fd, -1, SEEK_SET);
	TRY(lseek, fd, 0, 9);
	TRY(lseek, fd, 5, SEEK_SET);
	TRY(writev, fd, two, 2);
	TRY(writev, fd, bad, 2);
	TRY(writev, fd, two, 0);
	TRY(writev, fd, two, -1);
	TRY(readv, fd, in, 2);
	TRY(lseek, fd, 0, SEEK_CUR);
	TRY(preadv, fd, in, 2, 1, 0);
	TRY(preadv, fd, in, 2, -1l, 0);
	TRY(pwritev, fd, two, 2, 2, 0);
	TRY(preadv2, fd, in, 2, -1l, 0, 0);
	TRY(preadv2, fd, in, 2, 0, 0, 0x4000);
	TRY(pwritev2, fd, two, 2, 0, 0, 0x10);
	TRY(write, ap, "end", 3);
	TRY(lseek, ap, 0, SEEK_CUR);
	TRY(pwrite64, ap, "more", 4, 0);
	content("io");
	describe("io");
	TRY(read, fd, BAD, 0);
	TRY(write, fd, BAD, 0);
	TRY(read, open("dir", O_RDONLY), buffer, 10);
	TRY(pread64, 7, buffer, 10, 0);
	TRY(getdents64, fd, buffer, 100);
	TRY(getdents64, 7, buffer, 5);
	TRY(getdents64, 7, BAD, 500);
	TRY(getdents64, 99, buffer, 500);
	close(7);
	TRY(ioctl, fd, 0x541b, buffer);
	TRY(ioctl, fd, 0x5401, buffer);
	close(fd), close(ro), close(wo), close(ap);
}

static void try_size(void)
{
	int fd = open("sparse", O_CREAT | O_RDWR | O_TRUNC, 0644), ro = open("sparse", O_RDONLY);

	TRY(ftruncate, fd, 100000);
	describe("sparse");
	TRY(pwrite64, fd, "data", 4, 50000);
	TRY(pwrite64, fd, "data", 4, 8192);
	describe("sparse");
	TRY(lseek, fd, 0, SEEK_DATA);
	TRY(lseek, fd, 8200, SEEK_DATA);
	TRY(lseek, fd, 8192, SEEK_HOLE);
	TRY(lseek, fd, 60000, SEEK_DATA);
	TRY(lseek, fd, 60000, SEEK_HOLE);
	TRY(lseek, fd, 100000, SEEK_HOLE);
	TRY(lseek, fd, -1, SEEK_DATA);
	TRY(fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8000, 5000);
	TRY(fallocate, fd, FALLOC_FL_PUNCH_HOLE, 8000, 5000);
	TRY(fallocate, fd, 0x8000, 0, 1);
	TRY(fallocate, fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
	TRY(fallocate, fd, 0, -1, 10);
	TRY(fallocate, fd, 0, 0, 0);
	TRY(fallocate, fd, 0, 0x7fffffffffffffff, 10);
	TRY(fallocate, ro, 0, 0, 10);
	TRY(fallocate, 1000, 0, 0, 10);
	describe("sparse");
	TRY(fallocate, fd, FALLOC_FL_KEEP_SIZE, 100000, 5000);
	TRY(fallocate, fd, 0, 100000, 5000);
	describe("sparse");
	content("sparse");
	TRY(ftruncate, fd, 8194);
	TRY(ftruncate, fd, 9000);
	content("sparse");
	TRY(ftruncate, fd, -1);
	TRY(ftruncate, ro, 1);
	TRY(ftruncate, 99, 1);
	TRY(truncate, "sparse", 10);
	TRY(truncate, "dir", 10);
	TRY(truncate, "absent", 10);
	TRY(truncate, "loop1", 10);
	TRY(truncate, "sparse", -1);
	TRY(truncate, "/dev/null", 0);
	describe("sparse");
	close(fd), close(ro);
}

/* What would exceed RLIMIT_FSIZE. */
static void try_limit(void)
{
	const struct rlimit limit = { 10000, 10000 };
	int fd = open("limited", O_CREAT | O_RDWR, 0644);
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	IN_CHILD {
		CALL(setrlimit(RLIMIT_FSIZE, &limit));
		sigaction(SIGXFSZ, &ignore, NULL);
		CALL(ftruncate(fd, 10000));
		CALL(ftruncate(fd, 10001));
		CALL(fallocate(fd, 0, 5000, 5001));
		CALL(fallocate(fd, FALLOC_FL_KEEP_SIZE, 5000, 5001));
		CALL(pwrite(fd, "x", 1, 10000));
	}
	IN_CHILD {
		CALL(setrlimit(RLIMIT_FSIZE, &limit));
		CALL(fallocate(fd, 0, 5000, 5001));
	}
	close(fd);
}

static void try_names(void)
{
	struct stat s;

	TRY(mkdir, "dir", 0755);
	TRY(mkdir, "file", 0755);
	TRY(mkdir, "file/x", 0755);
	TRY(mkdir, "absent/x", 0755);
	TRY(mkdir, "dangling2", 0755);
	TRY(mkdir, "/", 0755);
	TRY(mkdir, ".", 0755);
	TRY(mkdir, "..", 0755);
	TRY(mkdir, "slash//", 01777);
	describe("slash");
	TRY(mkdir, name256, 0755);
	TRY(mkdir, "dangling/", 0755);
	TRY(rmdir, ".");
	TRY(rmdir, "dir/..");
	TRY(rmdir, "/");
	TRY(rmdir, "file");
	TRY(rmdir, "link");
	TRY(rmdir, "dirlink");
	TRY(rmdir, "dirlink/");
	TRY(rmdir, "absent");
	TRY(rmdir, "dir");
	TRY(rmdir, "slash/");
	TRY(unlink, "dir");
	TRY(unlink, "file/");
	TRY(unlink, "link/");
	TRY(unlink, "absent");
	TRY(unlink, ".");
	TRY(unlink, "");
	TRY(unlinkat, AT_FDCWD, "file", 77);
	TRY(unlinkat, AT_FDCWD, "file", AT_REMOVEDIR);
	TRY(link, "file", "hard");
	TRY(link, "file", "hard");
	TRY(link, "dir", "harddir");
	TRY(link, "link", "hardlink");
	TRY(link, "absent", "x");
	TRY(link, "file", "x/");
	TRY(link, "file", "/dev/null");
	TRY(linkat, AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW);
	TRY(linkat, AT_FDCWD, "link", AT_FDCWD, "f", 3);
	describe("file");
	describe("hardlink");
	describe("followed");
	TRY(symlink, "", "empty");
	TRY(symlink, "x", "");
	TRY(symlink, "x", "link");
	TRY(symlink, "x", "y/");
	TRY(symlink, path4096, "long");
	TRY(symlinkat, "x", 99, "y");
	TRY(mknod, "fifo", S_IFIFO | 0640, 0);
	TRY(mknod, "sock", S_IFSOCK | 0640, 0);
	TRY(mknod, "char", S_IFCHR | 0640, makedev(1, 3));
	TRY(mknod, "regular", 0640, 0);
	TRY(mknod, "directory", S_IFDIR | 0640, 0);
	TRY(mknod, "odd", S_IFLNK | 0640, 0);
	TRY(mknod, "odd", 0050000, 0);
	TRY(mknod, "char", S_IFCHR | 0640, 0);
	TRY(mknod, "x/", S_IFREG | 0640, 0);
	TRY(open, "sock", O_RDWR);
	TRY(read, open("char", O_RDONLY), buffer, 10);
	TRY(close, 3);
	for (const char *const *at = (const char *const[]){ "fifo", "sock", "char", "regular", NULL }; *at; at++)
		describe(*at);
	TRY(readlink, "link", buffer, 2);
	TRY(readlink, "file", buffer, 2);
	TRY(readlink, "link", BAD, 2);
	TRY(readlink, "link", buffer, 0);
	TRY(readlinkat, AT_FDCWD, "", buffer, 10);
	TRY(newfstatat, AT_FDCWD, "link/", &s, AT_SYMLINK_NOFOLLOW);
	TRY(newfstatat, AT_FDCWD, "", &s, AT_EMPTY_PATH);
	TRY(stat, "dangling2", &s);
	TRY(lstat, "link", BAD);
	list(".");
	list("dir");
}

static void try_rename(void)
{
	mkdir("r", 0755), mkdir("r/a", 0755), mkdir("r/a/b", 0755), mkdir("r/empty", 0755), mkdir("r/full", 0755);
	make("r/full/f", "x"), make("r/f1", "one"), make("r/f2", "twotwo"), symlink("f1", "r/l");
	TRY(rename, "r/f1", "r/f3");
	TRY(rename, "r/f3", "r/f2");
	content("r/f2");
	TRY(rename, "r/absent", "r/f3");
	TRY(rename, "r/f2", "r/absent/f3");
	TRY(rename, "r/f2", "r/a");
	TRY(rename, "r/a", "r/f2");
	TRY(rename, "r/a", "r/full");
	TRY(rename, "r/a", "r/a/b/c");
	TRY(rename, "r/a/b", "r/a");
	TRY(rename, "r/a", "r/a");
	TRY(rename, "r/a", "r/empty");
	list("r");
	TRY(rename, "r/.", "r/x");
	TRY(rename, "r/..", "r/x");
	TRY(rename, "r/f2", "r/.");
	TRY(rename, "/", "r/x");
	TRY(rename, "r/f2", "r/x/");
	TRY(rename, "r/f2/", "r/x");
	TRY(rename, "r/empty/", "r/moved/");
	TRY(rename, "r/f2", "/dev/null");
	TRY(rename, "r/l", "r/l2");
	TRY(renameat2, AT_FDCWD, "r/f2", AT_FDCWD, "r/full", RENAME_NOREPLACE);
	TRY(renameat2, AT_FDCWD, "r/f2", AT_FDCWD, "r/new", RENAME_NOREPLACE);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "r/full", RENAME_EXCHANGE);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "r/absent", RENAME_EXCHANGE);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "r/moved/b", RENAME_EXCHANGE);
	TRY(renameat2, AT_FDCWD, "r/moved", AT_FDCWD, "r/moved/b", RENAME_EXCHANGE);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "r/full", 3);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "r/full", 8);
	TRY(renameat2, AT_FDCWD, "r/new", AT_FDCWD, "..", RENAME_NOREPLACE);
	link("r/full", "r/same");
	TRY(rename, "r/full", "r/same");
	list("r");
	list("r/moved");
	list("r/new");
	for (const char *const *at = (const char *const[]){ "r", "r/moved", "r/full", "r/new", "r/same", NULL }; *at; at++)
		describe(*at);
	mkdir("gone", 0755);
	TRY(open, "gone", O_RDONLY);
	rmdir("gone");
	TRY(openat, 3, "x", O_CREAT | O_WRONLY, 0600);
	TRY(mkdirat, 3, "x", 0700);
	TRY(getdents64, 3, buffer, 1000);
	TRY(openat, 3, "..", O_RDONLY);
	TRY(close, 4);
	TRY(fchdir, 3);
	TRY(getcwd, buffer, 1000);
	TRY(chdir, "..");
	close(3);
}

static void try_attributes(void)
{
	struct timespec times[2] = { { 1, 2 }, { 3, 4 } }, wrong[2] = { { 1, -5 }, { 3, 4 } };
	struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } }, omit[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };
	struct timeval odd[2] = { { 1, 1000000 }, { 1, 1 } };
	struct stat s;

	TRY(chmod, "file", 07777);
	describe("file");
	TRY(chmod, "link", 0600);
	describe("file");
	TRY(chmod, "absent", 0600);
	TRY(fchmodat, AT_FDCWD, "link", 0640);
	TRY(fchmodat2, AT_FDCWD, "link", 0640, AT_SYMLINK_NOFOLLOW);
	TRY(fchmodat2, AT_FDCWD, "link", 0640, 1);
	TRY(fchmod, 99, 0640);
	TRY(chmod, "file", 06755);
	TRY(chown, "file", 12, 34);
	describe("file");
	TRY(chown, "file", -1, -1);
	TRY(lchown, "link", 5, 6);
	describe("link");
	TRY(fchownat, AT_FDCWD, "file", 0, -1, 0);
	TRY(fchownat, AT_FDCWD, "file", 0, 0, 1);
	TRY(fchownat, AT_FDCWD, "", 0, 0, AT_EMPTY_PATH);
	TRY(fchown, 99, 0, 0);
	describe("file");
	TRY(utimensat, AT_FDCWD, "file", times, 0);
	TRY(stat, "file", &s);
	printf("    %ld.%ld %ld.%ld\n", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
	TRY(utimensat, AT_FDCWD, "file", wrong, 0);
	TRY(utimensat, AT_FDCWD, "absent", omit, 0);
	TRY(utimensat, AT_FDCWD, "absent", times, 0);
	TRY(utimensat, AT_FDCWD, "file", now, 0);
	TRY(utimensat, AT_FDCWD, "file", BAD, 0);
	TRY(utimensat, AT_FDCWD, NULL, times, 0);
	TRY(utimensat, 99, NULL, times, 0);
	TRY(utimensat, AT_FDCWD, "file", times, 1);
	TRY(utimensat, AT_FDCWD, "link", times, AT_SYMLINK_NOFOLLOW);
	TRY(utimes, "file", odd);
	TRY(utime, "file", NULL);
	TRY(access, "file", 4);
	TRY(access, "file", 8);
	TRY(access, "absent", 0);
	TRY(access, "nowhere", 1);
	TRY(access, "regular", 1);
	TRY(faccessat2, AT_FDCWD, "dangling2", 0, AT_SYMLINK_NOFOLLOW);
	TRY(faccessat2, AT_FDCWD, "file", 0, 1);
	TRY(umask, 027);
	TRY(mkdir, "masked", 0777);
	describe("masked");
	TRY(umask, 022);
	TRY(chmod, "masked", 02777);
	mkdir("masked/sub", 0755);
	describe("masked/sub");
}

static void try_xattr(void)
{
	TRY(setxattr, "file", "user.one", "value", 5, 0);
	TRY(setxattr, "file", "user.one", "v", 1, 1);
	TRY(setxattr, "file", "user.two", "v", 1, 2);
	TRY(setxattr, "file", "user.one", "other value", 11, 2);
	TRY(setxattr, "file", "user.two", "", 0, 0);
	TRY(setxattr, "file", "user.two", BAD, 4, 0);
	TRY(setxattr, "file", "none", "v", 1, 0);
	TRY(setxattr, "file", "", "v", 1, 0);
	TRY(setxattr, "file", "user.", "v", 1, 0);
	TRY(setxattr, "file", name256, "v", 1, 0);
	TRY(setxattr, "file", "user.x", "v", 1, 4);
	TRY(setxattr, "file", "user.x", buffer, 70000, 0);
	TRY(setxattr, "absent", "user.x", "v", 1, 0);
	TRY(lsetxattr, "link", "user.x", "v", 1, 0);
	TRY(lsetxattr, "link", "trusted.x", "v", 1, 0);
	TRY(setxattr, "char", "user.x", "v", 1, 0);
	TRY(getxattr, "file", "user.one", buffer, 100);
	TRY(getxattr, "file", "user.one", buffer, 3);
	TRY(getxattr, "file", "user.one", NULL, 0);
	TRY(getxattr, "file", "user.absent", buffer, 100);
	TRY(getxattr, "file", "user.one", BAD, 100);
	TRY(getxattr, "file", "none", buffer, 100);
	TRY(listxattr, "file", buffer, 100);
	TRY(listxattr, "file", buffer, 3);
	TRY(listxattr, "file", NULL, 0);
	TRY(llistxattr, "link", buffer, 100);
	TRY(removexattr, "file", "user.two");
	TRY(removexattr, "file", "user.two");
	TRY(fsetxattr, 99, "user.x", "v", 1, 0);
	TRY(fgetxattr, 1, "user.x", buffer, 1);
}

static void try_directories(void)
{
	struct statfs fs;
	int fd;

	TRY(chdir, "dir/deep");
	TRY(chdir, "../../file");
	TRY(chdir, "absent");
	TRY(chdir, "../..");
	TRY(fchdir, 99);
	TRY(getcwd, buffer, 1);
	TRY(getcwd, BAD, 1000);
	TRY(getcwd, NULL, 0);
	TRY(statfs, "file", &fs);
	printf("    type %lx name %ld\n", (long)fs.f_type, (long)fs.f_namelen);
	TRY(statfs, "absent", &fs);
	TRY(fstatfs, 99, &fs);
	TRY(statfs, ".", BAD);
	mkdir("many", 0755);
	for (int i = 0; i < 2000; i++) {
		char each[40];

		sprintf(each, "many/a-file-with-number-%d", i);
		close(open(each, O_CREAT | O_WRONLY, 0600));
	}
	fd = open("many", O_RDONLY);
	long total = 0, count = 0, size;

	while ((size = syscall(SYS_getdents64, fd, buffer, 700)) > 0)
		for (long at = 0; at < size; at += ((struct dirent *)(buffer + at))->d_reclen, count++)
			total += atol(((struct dirent *)(buffer + at))->d_name + (((struct dirent *)(buffer + at))->d_name[0] == 'a' ? 19 : 0));
	printf("    %ld entries, numbers %ld\n", count, total);
	lseek(fd, 0, SEEK_SET);
	for (count = 0; (size = syscall(SYS_getdents64, fd, buffer, 700)) > 0;)
		for (long at = 0; at < size; at += ((struct dirent *)(buffer + at))->d_reclen)
			count += !unlinkat(fd, ((struct dirent *)(buffer + at))->d_name, 0);
	printf("    %ld removed\n", count);
	close(fd);
	TRY(rmdir, "many");
}

static void try_descriptors(void)
{
	struct rlimit limit = { 1100, 4000 };

	TRY(prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
	for (int i = 0; i < 1100; i++)
		if (dup(1) < 0)
			break;
	TRY(dup, 1);
	TRY(fcntl, 1000, F_GETFD);
	TRY(close_range, 500, 400, 0);
	TRY(close_range, 500, 600, 8);
	TRY(close_range, 500, 600, 4);
	TRY(fcntl, 600, F_GETFD);
	TRY(fcntl, 601, F_GETFD);
	TRY(close_range, 3, ~0u, 0);
	TRY(fcntl, 3, F_GETFD);
	TRY(fcntl, 1000, F_GETFD);
	TRY(dup, 1);
	TRY(dup2, 1, 300);
	TRY(close, 3);
	TRY(dup, 1);
	TRY(fcntl, 1, F_DUPFD, 300);
	TRY(close_range, 3, ~0u, 2);
}

/* Files without a name in any directory: their file systems, and namespaces among them. */
static void try_nameless(void)
{
	static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts" };
	int memory = (int)syscall(SYS_memfd_create, "m", 0), fd;
	struct statfs fs;

	CALL(fstatfs(memory, &fs));
	printf("    %lx\n", (long)fs.f_type);
	close(memory);
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		char path[64], target[64] = "", *number;
		struct stat s, own;

		sprintf(path, "/proc/self/ns/%s", kinds[i]);
		readlink(path, target, sizeof(target) - 1);
		number = strchr(target, '[');
		CALL(stat(path, &s));
		printf("    %.*s %d %o\n", number ? (int)(number - target) : 0, target, number && strtoul(number + 1, NULL, 10) == s.st_ino, s.st_mode);
		sprintf(path, "/proc/%d/ns/%s", getpid(), kinds[i]);
		stat(path, &own);
		CALL(s.st_ino == own.st_ino && s.st_dev == own.st_dev);
	}
	CALL(fd = open("/proc/self/ns/uts", O_RDONLY));
	CALL(fstatfs(fd, &fs));
	printf("    %lx\n", (long)fs.f_type);
	CALL(read(fd, buffer, 10));
	CALL(lseek(fd, 10, SEEK_SET));
	CALL(open("/proc/self/ns/uts", O_RDWR));
	CALL(fchmod(fd, 0600));
	CALL(open("/proc/self/ns/none", O_RDONLY));
	close(fd);
}

int main(int argc, char **argv)
{
	memset(name256, 'n', sizeof(name256) - 1);
	memset(path4096, 'p', sizeof(path4096) - 1);
	if (enter_folder(argc, argv))
		return 1;
	try_open();
	try_openat2();
	try_io();
	try_size();
	try_limit();
	try_names();
	try_rename();
	chdir(argv[1]);
	try_attributes();
	try_xattr();
	try_directories();
	try_descriptors();
	try_nameless();
	return 42;
}
