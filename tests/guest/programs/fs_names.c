/*
 * usage: fs_names DIRECTORY
 *
 * What POSIX and Linux say of names, directories and special files, tried in DIRECTORY: each call's success, its errno, and
 * what is there afterwards. Says what is not so, and at the end "fs_names: N checks, M wrong"; status 1 if any is.
 */
#include "fs_check.h"

#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/un.h>

static void opening(void)
{
	char name[300];
	int fd;

	memset(name, 'n', 256);
	name[256] = 0;
	ERR(open(name, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
	name[255] = 0;
	fd = OK(open(name, O_CREAT | O_EXCL | O_RDWR, 0600));
	OK(close(fd));
	OK(unlink(name));
	put("file", "content");
	ERR(open("file", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
	ERR(open("file", O_RDONLY | O_DIRECTORY), ENOTDIR);
	ERR(open("file/x", O_RDONLY), ENOTDIR);
	ERR(open("missing", O_RDONLY), ENOENT);
	ERR(open("missing/x", O_RDWR | O_CREAT, 0600), ENOENT);
	OK(symlink("file", "link"));
	ERR(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
	IS(holds("link", "content"));
	ERR(open(".", O_RDWR), EISDIR);
	ERR(open(".", O_RDWR | O_CREAT, 0600), EISDIR);
	fd = OK(open("link", O_WRONLY | O_TRUNC));
	IS(fstat(fd, &st) == 0 && st.st_size == 0);
	ERR(read(fd, buf, 1), EBADF);
	OK(close(fd));
	fd = OK(open("file", O_RDONLY));
	ERR(write(fd, "x", 1), EBADF);
	ERR(ftruncate(fd, 0), EINVAL);
	OK(close(fd));
	OK(symlink("loop2", "loop1"));
	OK(symlink("loop1", "loop2"));
	ERR(open("loop1", O_RDONLY), ELOOP);
	OK(symlink("made-by-link", "dangling"));
	fd = OK(open("dangling", O_CREAT | O_RDWR, 0600));
	OK(close(fd));
	IS(mode_of("made-by-link") == 0600);
	umask(027);
	fd = OK(open("masked", O_CREAT | O_RDWR, 0666));
	OK(close(fd));
	IS(mode_of("masked") == 0640);
	OK(mkdir("masked-dir", 0777));
	IS(mode_of("masked-dir") == 0750);
	umask(022);
	fd = OK(open("file", O_WRONLY | O_APPEND));
	OK(pwrite(fd, "b", 1, 0));
	OK(write(fd, "c", 1));
	OK(close(fd));
	IS(holds("file", "bc"));
}

static void directories(void)
{
	char path[2048] = "deep";
	int count = 0, fd;
	struct dirent *e;
	long where = 0;
	DIR *dir;

	OK(mkdir("d", 0755));
	ERR(mkdir("d", 0755), EEXIST);
	ERR(mkdir("file", 0755), EEXIST);
	ERR(mkdir("missing/d", 0755), ENOENT);
	OK(mkdir("d/sub", 0755));
	IS(stat("d", &st) == 0 && S_ISDIR(st.st_mode));
	ERR(rmdir("d"), ENOTEMPTY);
	ERR(rmdir("file"), ENOTDIR);
	ERR(rmdir("missing"), ENOENT);
	ERR(rmdir("d/."), EINVAL);
	ERR(unlink("d"), EISDIR);
	OK(rmdir("d/sub"));
	OK(rmdir("d"));
	ERR(stat("d", &st), ENOENT);

	for (int i = 0; i < 60; i++) {
		OK(mkdir(path, 0755));
		strcat(path, "/level");
	}
	put(path, "bottom");
	IS(holds(path, "bottom"));

	OK(mkdir("many", 0755));
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof(path), "many/entry-%d", i);
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		IS(fd >= 0);
		close(fd);
	}
	dir = opendir("many");
	IS(dir);
	while ((e = readdir(dir))) {
		count++;
		if (count == 500)
			where = telldir(dir);
		IS(e->d_name[0] == '.' ? e->d_type == DT_DIR : e->d_type == DT_REG);
	}
	IS(count == 1002);
	seekdir(dir, where);
	for (count = 0; readdir(dir); count++)
		;
	IS(count == 502);
	rewinddir(dir);
	/* Removing while reading, as rm -r does: nothing is left out. */
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			IS(unlinkat(dirfd(dir), e->d_name, 0) == 0);
	OK(fsync(dirfd(dir)));
	closedir(dir);
	OK(rmdir("many"));

	OK(mkdir("gone", 0755));
	fd = OK(open(".", O_RDONLY));
	OK(chdir("gone"));
	OK(rmdir("../gone"));
	ERR(open("x", O_CREAT | O_RDWR, 0600), ENOENT);
	OK(fchdir(fd));
	OK(close(fd));
}

static void names(void)
{
	struct stat before;
	char target[4096];
	int fd;

	put("a", "a");
	OK(lstat("a", &before));
	OK(link("a", "b"));
	IS(lstat("b", &st) == 0 && st.st_ino == before.st_ino && st.st_nlink == 2);
	ERR(link("a", "b"), EEXIST);
	ERR(link("missing", "c"), ENOENT);
	OK(mkdir("dir", 0755));
	ERR(link("dir", "c"), EPERM);
	OK(unlink("a"));
	IS(lstat("b", &st) == 0 && st.st_nlink == 1);
	IS(holds("b", "a"));

	OK(rename("b", "dir/c"));
	ERR(lstat("b", &st), ENOENT);
	IS(lstat("dir/c", &st) == 0 && st.st_ino == before.st_ino);
	put("over", "over");
	OK(rename("dir/c", "over"));
	IS(holds("over", "a"));
	put("dir/x", "x");
	OK(mkdir("dir2", 0755));
	ERR(rename("dir2", "dir"), ENOTEMPTY);
	ERR(rename("dir", "dir/inside"), EINVAL);
	ERR(rename("over", "dir"), EISDIR);
	ERR(rename("dir", "over"), ENOTDIR);
	ERR(rename("missing", "x"), ENOENT);
	OK(rename("dir", "dir2"));
	IS(holds("dir2/x", "x"));
	put("p", "p");
	put("q", "q");
	ERR(renameat2(AT_FDCWD, "p", AT_FDCWD, "q", RENAME_NOREPLACE), EEXIST);
	OK(renameat2(AT_FDCWD, "p", AT_FDCWD, "q", RENAME_EXCHANGE));
	IS(holds("p", "q") && holds("q", "p"));
	OK(renameat2(AT_FDCWD, "p", AT_FDCWD, "dir2/p", RENAME_NOREPLACE));

	fd = OK(open("q", O_RDWR));
	OK(unlink("q"));
	ERR(open("q", O_RDONLY), ENOENT);
	IS(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 1);
	IS(pread(fd, buf, 9, 0) == 1 && buf[0] == 'p');
	OK(write(fd, "still", 5));
	OK(fchmod(fd, 0600));
	OK(close(fd));

	memset(target, 't', 4095);
	target[4095] = 0;
	OK(symlink(target, "long"));
	IS(readlink("long", buf, sizeof(buf)) == 4095);
	IS(readlink("long", buf, 7) == 7);
	IS(lstat("long", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 4095);
	ERR(symlink("x", "long"), EEXIST);
	ERR(readlink("over", buf, 9), EINVAL);

	fd = OK(open(".", O_TMPFILE | O_RDWR, 0640));
	OK(write(fd, "tmp", 3));
	snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
	OK(linkat(AT_FDCWD, target, AT_FDCWD, "from-tmp", AT_SYMLINK_FOLLOW));
	OK(close(fd));
	IS(holds("from-tmp", "tmp") && mode_of("from-tmp") == 0640);
}

static void special(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int fd, other;

	OK(mkfifo("fifo", 0600));
	ERR(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
	fd = OK(open("fifo", O_RDWR));
	OK(write(fd, "pipe", 4));
	IS(read(fd, buf, 9) == 4);
	OK(close(fd));
	fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(bind(fd, (void *)&address, sizeof(address)));
	OK(listen(fd, 1));
	IS(lstat("socket", &st) == 0 && S_ISSOCK(st.st_mode));
	other = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(connect(other, (void *)&address, sizeof(address)));
	OK(close(other));
	OK(close(fd));
	ERR(open("socket", O_RDONLY), ENXIO);
	ERR(mknod("null", S_IFCHR | 0666, makedev(1, 3)), EPERM);
	ERR(mknod("block", S_IFBLK | 0600, makedev(259, 1048575)), EPERM);
	OK(mknod("whiteout", S_IFCHR, makedev(0, 0)));
	IS(lstat("whiteout", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	begin(argv[1]);
	opening();
	directories();
	names();
	special();
	return end("fs_names");
}
