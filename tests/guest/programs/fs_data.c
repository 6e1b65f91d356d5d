/*
 * usage: fs_data DIRECTORY [acl]
 *
 * What POSIX and Linux say of attributes, permissions, data and locks of files, tried in DIRECTORY as root and as other users:
 * each call's success, its errno, and what is there afterwards. Says what is not so, and at the end
 * "fs_data: N checks, M wrong"; status 1 if any is.
 */
#include "fs_check.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static void attributes(void)
{
	struct timespec ts[2] = { { 1000, 123456789 }, { 2000, 987654321 } };
	struct statx stx;
	struct statfs fs;

	put("attr", "0123456789");
	OK(chmod("attr", 04711));
	IS(mode_of("attr") == 04711);
	OK(chown("attr", USER, GROUP));
	IS(lstat("attr", &st) == 0 && st.st_uid == USER && st.st_gid == GROUP && (st.st_mode & 07777) == 0711);
	OK(utimensat(AT_FDCWD, "attr", ts, 0));
	IS(stat("attr", &st) == 0 && st.st_atim.tv_sec == 1000 && st.st_atim.tv_nsec == 123456789);
	IS(st.st_mtim.tv_sec == 2000 && st.st_mtim.tv_nsec == 987654321);
	ts[0].tv_nsec = UTIME_OMIT;
	ts[1].tv_nsec = UTIME_NOW;
	OK(utimensat(AT_FDCWD, "attr", ts, 0));
	IS(stat("attr", &st) == 0 && st.st_atim.tv_sec == 1000 && st.st_mtim.tv_sec > 1000000);
	OK(symlink("attr", "attr-link"));
	OK(lchown("attr-link", USER, USER));
	IS(stat("attr", &st) == 0 && st.st_gid == GROUP);
	IS(lstat("attr-link", &st) == 0 && st.st_gid == USER);
	ts[0].tv_nsec = ts[1].tv_nsec = 0;
	OK(utimensat(AT_FDCWD, "attr-link", ts, AT_SYMLINK_NOFOLLOW));
	IS(lstat("attr-link", &st) == 0 && st.st_mtim.tv_sec == 2000);
	OK(truncate("attr", 4));
	IS(holds("attr", "0123"));
	OK(truncate("attr", 6));
	IS(stat("attr", &st) == 0 && st.st_size == 6);
	ERR(truncate("attr", -1), EINVAL);
	ERR(truncate(".", 0), EISDIR);
	ERR(truncate("missing", 0), ENOENT);
	OK(statx(AT_FDCWD, "attr", 0, STATX_BASIC_STATS | STATX_BTIME, &stx));
	IS(stx.stx_size == 6 && stx.stx_uid == USER && (stx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
	OK(statfs(".", &fs));
	IS(fs.f_blocks > 0 && fs.f_namelen == 255);
	int fd = OK(open("attr", O_RDONLY)), flags;
	errno = 0;
	IS(ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 || errno == ENOTTY);
	OK(close(fd));
}

static void permissions(void)
{
	int fd;

	OK(mkdir("open", 0777));
	OK(chmod("open", 0777));
	OK(mkdir("sticky", 0777));
	OK(chmod("sticky", 01777));
	OK(mkdir("closed", 0700));
	put("private", "root only");
	OK(chmod("private", 0600));
	put("sticky/roots", "x");
	put("group", "x");
	OK(chmod("group", 0640));
	OK(chown("group", 0, GROUP));
	AS(USER, GROUP, {
		ERR(open("private", O_RDONLY), EACCES);
		ERR(open("closed/x", O_RDONLY), EACCES);
		ERR(opendir("closed") ? 0 : -1, EACCES);
		ERR(open("made", O_CREAT | O_RDWR, 0600), EACCES);
		ERR(mkdir("made", 0755), EACCES);
		ERR(chmod("private", 0666), EPERM);
		ERR(chown("private", USER, GROUP), EPERM);
		ERR(unlink("sticky/roots"), EPERM);
		ERR(access("private", R_OK), EACCES);
		OK(access("group", R_OK));
		ERR(access("group", W_OK), EACCES);
		ERR(utimensat(AT_FDCWD, "private", NULL, 0), EACCES);
		ERR(mknod("open/dev", S_IFCHR | 0600, makedev(1, 3)), EPERM);
		put("open/mine", "mine");
		put("sticky/mine", "mine");
		OK(mkdir("open/dir", 0755));
		OK(symlink("x", "open/link"));
		ERR(chown("open/mine", OTHER, -1), EPERM);
		OK(chown("open/mine", -1, GROUP));
		IS(lstat("open/mine", &st) == 0 && st.st_uid == USER && st.st_gid == GROUP);
	});
	IS(lstat("open/link", &st) == 0 && st.st_uid == USER && st.st_gid == GROUP);
	IS(lstat("open/dir", &st) == 0 && st.st_uid == USER && st.st_gid == GROUP);
	AS(OTHER, OTHER, {
		ERR(open("group", O_RDONLY), EACCES);
		ERR(unlink("sticky/mine"), EPERM);
		OK(unlink("open/mine"));
		ERR(rename("sticky/mine", "open/x"), EPERM);
		ERR(open("open/dir/x", O_CREAT | O_RDWR, 0600), EACCES);
	});

	/* Set-user-id and set-group-id, and who loses them when. */
	OK(mkdir("sgid", 0777));
	OK(chown("sgid", 0, GROUP));
	OK(chmod("sgid", 02777));
	AS(OTHER, OTHER, {
		fd = OK(open("sgid/outside", O_CREAT | O_RDWR, 02775));
		OK(close(fd));
		OK(mkdir("sgid/dir", 0755));
	});
	IS(lstat("sgid/outside", &st) == 0 && st.st_gid == GROUP && !(st.st_mode & S_ISGID));
	IS(lstat("sgid/dir", &st) == 0 && st.st_gid == GROUP && st.st_mode & S_ISGID);
	AS(OTHER, OTHER, {
		fd = OK(open("sgid/own", O_CREAT | O_RDWR, 0755));
		OK(close(fd));
		OK(chmod("sgid/own", 02755));
		IS(!(mode_of("sgid/own") & S_ISGID));
	});
	put("suid", "x");
	OK(chown("suid", USER, GROUP));
	for (int way = 0; way < 3; way++) {
		OK(chmod("suid", 06777));
		AS(OTHER, OTHER, {
			if (way == 0) {
				fd = OK(open("suid", O_WRONLY));
				OK(write(fd, "y", 1));
				OK(close(fd));
			} else if (way == 1) {
				OK(truncate("suid", 0));
			} else {
				OK(close(open("suid", O_WRONLY | O_TRUNC)));
			}
		});
		IS(mode_of("suid") == 0777);
	}
	OK(chmod("suid", 06777));
	fd = OK(open("suid", O_WRONLY));
	OK(write(fd, "z", 1));
	OK(close(fd));
	IS(mode_of("suid") == 06777);
}

static void data(void)
{
	struct iovec iov[3] = { { "one", 3 }, { "two", 3 }, { "three", 5 } };
	char *map;
	int fd, to;

	fd = OK(open("data", O_CREAT | O_RDWR, 0644));
	IS(writev(fd, iov, 3) == 11);
	IS(pread(fd, buf, 100, 3) == 8 && !memcmp(buf, "twothree", 8));
	IS(pread(fd, buf, 100, 11) == 0);
	IS(pwrite(fd, "far", 3, 5ll << 30) == 3);
	IS(fstat(fd, &st) == 0 && st.st_size == (5ll << 30) + 3 && st.st_blocks < 1000);
	IS(pread(fd, buf, 10, 5ll << 30) == 3 && !memcmp(buf, "far", 3));
	IS(pread(fd, buf, 10, 1ll << 30) == 10 && !buf[0]);
	OK(ftruncate(fd, 1 << 20));
	IS(lseek(fd, 0, SEEK_END) == 1 << 20);
	OK(fsync(fd));
	/* Where holes begin is up to the host's file system; that they are told in order is not. */
	off_t hole = OK(lseek(fd, 0, SEEK_HOLE));
	IS(hole >= 11 && hole <= 1 << 20);
	IS(lseek(fd, 0, SEEK_DATA) == 0);
	ERR(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);

	OK(fallocate(fd, 0, 0, 2 << 20));
	IS(fstat(fd, &st) == 0 && st.st_size == 2 << 20);
	OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 2 << 20, 4096));
	IS(fstat(fd, &st) == 0 && st.st_size == 2 << 20);
	IS(pwrite(fd, "x", 1, 8192) == 1);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096));
	IS(pread(fd, buf, 1, 8192) == 1 && buf[0] == 0);

	map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	IS(map != MAP_FAILED);
	if (map != MAP_FAILED) {
		IS(!memcmp(map, "onetwothree", 11));
		memcpy(map + 5000, "mapped", 6);
		OK(msync(map, 65536, MS_SYNC));
		IS(pread(fd, buf, 6, 5000) == 6 && !memcmp(buf, "mapped", 6));
		OK(munmap(map, 65536));
	}
	OK(close(fd));

	fd = OK(open("data", O_RDONLY));
	to = OK(open("copy", O_CREAT | O_RDWR, 0644));
	IS(copy_file_range(fd, NULL, to, NULL, 11, 0) == 11);
	IS(holds("copy", "onetwothree"));
	off_t from = 3;
	IS(sendfile(to, fd, &from, 3) == 3);
	IS(holds("copy", "onetwothreetwo"));
	OK(fdatasync(to));
	OK(syncfs(to));
	OK(close(to));
	OK(close(fd));

	/* A file of some size, in pieces that fit nothing. */
	fd = OK(open("big", O_CREAT | O_RDWR, 0644));
	for (unsigned i = 0; i < 64; i++) {
		for (unsigned j = 0; j < sizeof(buf); j++)
			buf[j] = (char)(i * 7 + j);
		IS(write(fd, buf, sizeof(buf) - 1) == sizeof(buf) - 1);
	}
	OK(close(fd));
	fd = OK(open("big", O_RDONLY));
	for (unsigned i = 0; i < 64; i++) {
		IS(read(fd, buf, sizeof(buf) - 1) == sizeof(buf) - 1);
		IS(buf[12345] == (char)(i * 7 + 12345) && buf[sizeof(buf) - 2] == (char)(i * 7 + sizeof(buf) - 2));
	}
	IS(read(fd, buf, 1) == 0);
	OK(close(fd));

	/* A program on the share runs: its pages are mapped. */
	fd = OK(open("/proc/self/exe", O_RDONLY));
	to = OK(open("program", O_CREAT | O_WRONLY, 0755));
	for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;)
		IS(write(to, buf, n) == n);
	OK(close(fd));
	OK(close(to));
	if (fork() == 0) {
		execl("program", "program", NULL);
		_exit(9);
	}
	int status;
	IS(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 2);
}

static void xattrs(int acl)
{
	put("x", "x");
	ERR(getxattr("x", "user.none", buf, 10), ENODATA);
	if (setxattr("x", "user.a", "value", 5, 0) < 0 && errno == EOPNOTSUPP) {
		puts("no user attributes on the host: left out");
		return;
	}
	IS(getxattr("x", "user.a", buf, 10) == 5 && !memcmp(buf, "value", 5));
	IS(getxattr("x", "user.a", NULL, 0) == 5);
	ERR(getxattr("x", "user.a", buf, 2), ERANGE);
	ERR(setxattr("x", "user.a", "b", 1, XATTR_CREATE), EEXIST);
	ERR(setxattr("x", "user.b", "b", 1, XATTR_REPLACE), ENODATA);
	OK(setxattr("x", "user.b", "", 0, XATTR_CREATE));
	IS(listxattr("x", buf, sizeof(buf)) >= 14);
	OK(removexattr("x", "user.a"));
	ERR(removexattr("x", "user.a"), ENODATA);
	ERR(setxattr("x", "nonsense", "b", 1, 0), EOPNOTSUPP);
	ERR(getxattr("missing", "user.a", buf, 2), ENOENT);
	OK(chmod("x", 0600));
	AS(USER, GROUP, ERR(setxattr("x", "user.c", "b", 1, 0), EACCES));
	if (!acl)
		return;
	/* Its owner reads and writes, USER reads, nobody else does anything. */
	static const unsigned char list[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, USER & 255, USER >> 8, 0, 0,
		4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
	OK(setxattr("x", "system.posix_acl_access", list, sizeof(list), 0));
	IS(mode_of("x") == 0640);
	AS(USER, GROUP, { OK(close(open("x", O_RDONLY))); ERR(open("x", O_RDWR), EACCES); });
	AS(OTHER, OTHER, ERR(open("x", O_RDONLY), EACCES));
	OK(mkdir("acl", 0700));
	OK(setxattr("acl", "system.posix_acl_default", list, sizeof(list), 0));
	umask(077);
	put("acl/inherits", "x");
	umask(022);
	IS(mode_of("acl/inherits") == 0640);
	IS(getxattr("acl/inherits", "system.posix_acl_access", buf, sizeof(buf)) == sizeof(list));
}

/* A child takes a lock, says so, and gives it back when told. */
static void locks(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10 };
	int fd = OK(open("lock", O_CREAT | O_RDWR, 0644)), ready[2], go[2], other;

	OK(pipe(ready));
	OK(pipe(go));
	fflush(stdout);
	if (fork() == 0) {
		int mine = open("lock", O_RDWR);

		if (fcntl(mine, F_SETLK, &lock) || flock(mine, LOCK_EX))
			_exit(9);
		(void)!write(ready[1], "x", 1);
		(void)!read(go[0], buf, 1);
		usleep(100000); /* so that the parent waits for the lock */
		_exit(0); /* which gives both back */
	}
	IS(read(ready[0], buf, 1) == 1);
	lock.l_start = 0;
	lock.l_len = 10;
	OK(fcntl(fd, F_SETLK, &lock));
	lock.l_start = 15;
	ERR(fcntl(fd, F_SETLK, &lock), EAGAIN);
	lock.l_type = F_RDLCK;
	IS(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_start == 10 && lock.l_len == 10);
	ERR(flock(fd, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	(void)!write(go[1], "x", 1);
	OK(flock(fd, LOCK_EX));
	lock = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
	OK(fcntl(fd, F_SETLKW, &lock));
	wait(NULL);
	other = OK(open("lock", O_RDWR));
	ERR(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	OK(flock(fd, LOCK_UN));
	OK(flock(other, LOCK_SH | LOCK_NB));
	/* Closing any descriptor of a file gives the process's POSIX locks back. */
	fflush(stdout);
	OK(close(other));
	if (fork() == 0) {
		lock = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
		_exit(fcntl(open("lock", O_RDWR), F_SETLK, &lock) ? 1 : 0);
	}
	int status = -1;
	IS(wait(&status) > 0 && status == 0);
	lock = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 5 };
	OK(fcntl(fd, F_OFD_SETLK, &lock));
	other = OK(open("lock", O_RDWR));
	lock.l_type = F_RDLCK;
	ERR(fcntl(other, F_OFD_SETLK, &lock), EAGAIN);
	OK(close(fd));
	OK(fcntl(other, F_OFD_SETLK, &lock));
	OK(close(other));
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	begin(argv[1]);
	attributes();
	permissions();
	data();
	xattrs(argc > 2);
	locks();
	return end("fs_data");
}
