// SPDX-License-Identifier: Apache-2.0
/* Changes an existing tree, which an overlay has in its lower layer. The argument is a copy of the tree. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>

#include "report.h"

static char buffer[1 << 16];

static void content(int line, const char *name)
{
	int fd = open(name, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof(buffer) - 1);
	unsigned int sum = 0;

	for (ssize_t i = 0; i < size; i++)
		sum = sum * 31 + (unsigned char)buffer[i];
	if (size < 0)
		printf("%d    %s: %s\n", line, name, strerrorname_np(errno));
	else
		printf("%d    %s: %zd bytes, sum %x, starts with %.5s\n", line, name, size, sum, size ? buffer : "");
	if (fd >= 0)
		close(fd);
}

static void status(int line, const char *name)
{
	struct stat s;

	if (lstat(name, &s))
		printf("%d    %s: %s\n", line, name, strerrorname_np(errno));
	else if (S_ISDIR(s.st_mode))
		printf("%d    %s: %o %u:%u\n", line, name, s.st_mode, s.st_uid, s.st_gid);
	else
		printf("%d    %s: %o %u:%u links %lu size %ld time %ld.%09ld\n", line, name, s.st_mode, s.st_uid, s.st_gid,
		       s.st_nlink, s.st_size, s.st_mtim.tv_sec > 1000000000 ? 0 : s.st_mtim.tv_sec,
		       s.st_mtim.tv_sec > 1000000000 ? 0 : s.st_mtim.tv_nsec);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names and types, and whether the numbers are those of lstat. */
static void list(int line, const char *name)
{
	DIR *directory = opendir(name);
	char *names[1000];
	unsigned int count = 0, wrong = 0;
	struct dirent *entry;
	struct stat s;

	while (directory && (entry = readdir(directory)) && count < 1000) {
		if (fstatat(dirfd(directory), entry->d_name, &s, AT_SYMLINK_NOFOLLOW) ||
		    (strcmp(entry->d_name, "..") && s.st_ino != entry->d_ino) || IFTODT(s.st_mode) != entry->d_type)
			wrong++;
		names[count++] = strdup(entry->d_name);
	}
	qsort(names, count, sizeof(*names), by_name);
	printf("%d    %s: %u entries, %u wrong:", line, name, count, wrong);
	for (unsigned int i = 0; i < count; i++) {
		if (i < 20)
			printf(" %s", names[i]);
		free(names[i]);
	}
	printf("\n");
	if (directory)
		closedir(directory);
}

#define CONTENT(name) content(__LINE__, name)
#define STATUS(name) status(__LINE__, name)
#define LIST(name) list(__LINE__, name)

static unsigned long number(const char *name)
{
	struct stat s;

	return lstat(name, &s) ? 0 : s.st_ino;
}

/* -- files -- */

static void change_contents(void)
{
	int fd = open("file", O_RDONLY), other, old;
	unsigned long before = number("file");

	CALL(read(fd, buffer, 5));
	other = open("file", O_WRONLY);
	CALL(pwrite(other, "NEW", 3, 1));
	CALL(pread(fd, buffer, 5, 0));
	printf("    an open file shows %.5s\n", buffer);
	STATUS("file");
	CALL(before == number("file"));
	CONTENT("file");
	CALL(ftruncate(other, 10));
	CONTENT("file");
	CALL(lseek(fd, 0, SEEK_END));
	close(fd), close(other);
	old = open("append", O_RDONLY);
	fd = open("append", O_WRONLY | O_APPEND);
	CALL(write(fd, "end", 3));
	CALL(lseek(fd, 0, SEEK_CUR));
	CALL(lseek(old, 0, SEEK_END));
	close(fd), close(old);
	CONTENT("append");
	close(open("truncated", O_WRONLY | O_TRUNC));
	STATUS("truncated"), CONTENT("truncated");
	CALL(truncate("shortened", 5000));
	STATUS("shortened"), CONTENT("shortened");
	CALL(truncate("lengthened", 20000));
	STATUS("lengthened"), CONTENT("lengthened");
	fd = open("big", O_RDWR);
	CALL(pwrite(fd, "middle", 6, 30000));
	CALL(pread(fd, buffer, 40000, 10000));
	CALL(fallocate(fd, 0, 70000, 1000));
	CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
	CALL(fsync(fd));
	close(fd);
	STATUS("big"), CONTENT("big");
	fd = open("sparse", O_RDWR);
	CALL(lseek(fd, 0, SEEK_DATA) > 0);
	CALL(pwrite(fd, "x", 1, 1));
	CALL(lseek(fd, 8192, SEEK_DATA) > 100000);
	close(fd);
	STATUS("sparse"), CONTENT("sparse");
}

static void change_attributes(void)
{
	const struct timespec times[] = { { 1000, 1 }, { 2000, 2 } };
	unsigned long before = number("mode");
	char names[200] = { 0 };
	int fd;

	CALL(chmod("mode", 0640));
	STATUS("mode"), CONTENT("mode");
	CALL(before == number("mode"));
	CALL(chown("owner", 12, 34));
	STATUS("owner");
	CALL(utimensat(AT_FDCWD, "times", times, 0));
	STATUS("times"), CONTENT("times");
	CALL(utimensat(AT_FDCWD, "link", times, AT_SYMLINK_NOFOLLOW));
	STATUS("link"), CONTENT("link");
	CALL(lchown("dangling", 5, 6));
	STATUS("dangling");
	CALL(chmod("dir", 0700));
	STATUS("dir");
	CALL(utimensat(AT_FDCWD, "fifo", times, 0));
	STATUS("fifo");
	CALL(getxattr("attributes", "user.one", buffer, 100));
	CALL(setxattr("attributes", "user.two", "2", 1, XATTR_CREATE));
	CALL(setxattr("attributes", "user.one", "1", 1, XATTR_CREATE));
	CALL(getxattr("attributes", "user.one", buffer, 100));
	CALL(listxattr("attributes", names, sizeof(names)));
	CALL(removexattr("attributes", "user.one"));
	CALL(removexattr("attributes", "user.one"));
	CALL(getxattr("attributes", "user.one", buffer, 100));
	CALL(getxattr("attributes", "user.two", buffer, 100));
	CALL(removexattr("times", "user.none"));
	CALL(setxattr("times", "user.none", "x", 1, XATTR_REPLACE));
	CALL(setxattr("dir", "user.dir", "x", 1, 0));
	CALL(listxattr("dir", names, sizeof(names)));
	fd = open("gone", O_RDONLY);
	CALL(unlink("gone"));
	CALL(fchmod(fd, 0600));
	CALL(read(fd, buffer, 5));
	close(fd);
	CALL(setxattr("mode", "user.long", buffer, 1000, 0));
}

static void map_contents(void)
{
	int reader = open("mapped", O_RDONLY), writer;
	char *shared = mmap(NULL, 8192, PROT_READ, MAP_SHARED, reader, 0), *ours, *private;

	private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
	private[0] = 'p';
	printf("    mapped %.5s %.5s\n", shared, private);
	writer = open("mapped", O_RDWR);
	ours = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
	printf("    mapped %.5s\n", ours);
	ours[1] = 'M', ours[4096] = 'N';
	printf("    mapped %.5s %.5s %.1s\n", ours, private, private + 1);
	CALL(pread(writer, buffer, 5, 0));
	printf("    read %.5s\n", buffer);
	CALL(pwrite(writer, "w", 1, 2));
	printf("    mapped %.5s\n", ours);
	CALL(msync(ours, 8192, MS_SYNC));
	munmap(ours, 8192), munmap(private, 8192), munmap(shared, 8192);
	close(reader), close(writer);
	CONTENT("mapped");
}

/* -- names -- */

static void remove_names(void)
{
	CALL(unlink("removed"));
	CALL(unlink("removed"));
	STATUS("removed");
	CALL(open("removed", O_RDONLY));
	LIST(".");
	CALL(close(open("removed", O_CREAT | O_EXCL | O_WRONLY, 0600)));
	STATUS("removed");
	CALL(unlink("removed"));
	STATUS("removed");
	CALL(mkdir("removed", 0750));
	LIST("removed");
	CALL(rmdir("removed"));
	CALL(symlink("target", "removed"));
	STATUS("removed");
	CALL(unlink("removed"));
	CALL(rmdir("full"));
	LIST("full");
	CALL(unlink("full/a")), CALL(unlink("full/b"));
	LIST("full");
	CALL(rmdir("full"));
	CALL(unlink("full/c")), CALL(rmdir("full/sub"));
	LIST("full");
	CALL(rmdir("full"));
	STATUS("full");
	CALL(mkdir("full", 0755));
	LIST("full");
	CALL(close(open("full/a", O_CREAT | O_WRONLY, 0644)));
	LIST("full"), STATUS("full/a"), STATUS("full/b");
	CALL(rmdir("empty"));
	CALL(mkdir("empty", 0700));
	CALL(rmdir("empty"));
	CALL(unlink("dir")), CALL(rmdir("file")), CALL(rmdir("link"));
	CALL(unlink("link")), CALL(unlink("fifo"));
	STATUS("link"), STATUS("fifo");
}

static void rename_files(void)
{
	unsigned long before = number("from");

	CALL(rename("from", "to"));
	STATUS("from"), STATUS("to"), CONTENT("to");
	CALL(before == number("to"));
	CALL(rename("to", "names/one"));
	STATUS("to"), CONTENT("names/one");
	LIST("names");
	CALL(rename("names/one", "names/two"));
	CONTENT("names/two"), LIST("names");
	CALL(rename("names/three", "from"));
	CONTENT("from"), LIST("names");
	CALL(syscall(SYS_renameat2, AT_FDCWD, "swap1", AT_FDCWD, "swap2", RENAME_EXCHANGE));
	CONTENT("swap1"), CONTENT("swap2");
	CALL(syscall(SYS_renameat2, AT_FDCWD, "swap1", AT_FDCWD, "swap2", RENAME_NOREPLACE));
	CALL(syscall(SYS_renameat2, AT_FDCWD, "swap1", AT_FDCWD, "names", RENAME_EXCHANGE));
	LIST("swap1"), CONTENT("names");
	CALL(syscall(SYS_renameat2, AT_FDCWD, "swap1", AT_FDCWD, "names", RENAME_EXCHANGE));
	CALL(rename("swap1", "dir")), CALL(rename("dir", "swap1"));
	CALL(rename("swap1", "swap1")), CALL(rename("dir", "dir/sub/x"));
	LIST(".");
}

static void rename_directories(void)
{
	unsigned long before = number("deep");

	CALL(rename("deep", "shallow"));
	STATUS("deep"), LIST("shallow"), LIST("shallow/er");
	CALL(before == number("shallow"));
	CONTENT("shallow/er/est");
	CALL(close(open("shallow/er/new", O_CREAT | O_WRONLY, 0644)));
	CALL(unlink("shallow/er/est"));
	LIST("shallow/er");
	CALL(mkdir("deep", 0755));
	LIST("deep");
	CALL(close(open("deep/own", O_CREAT | O_WRONLY, 0644)));
	CALL(rename("shallow/er", "deep/er"));
	LIST("shallow"), LIST("deep"), LIST("deep/er");
	CALL(rename("deep/er", "shallow/er"));
	CALL(rename("deep", "shallow"));
	CALL(unlink("shallow/top"));
	CALL(rename("shallow/er", "er"));
	LIST("shallow");
	CALL(rename("deep", "shallow"));
	LIST("shallow"), STATUS("deep"), LIST("er");
	CALL(rename("er", "target"));
	CALL(unlink("target/in"));
	CALL(rename("er", "target"));
	LIST("target");
	CALL(syscall(SYS_renameat2, AT_FDCWD, "target", AT_FDCWD, "other", RENAME_EXCHANGE));
	LIST("target"), LIST("other");
	CALL(rename("target/sub", "other/sub"));
	LIST("target"), LIST("other"), LIST("other/sub");
}

/* Both names lead to one file, before and after it changes. */
static void use_links(void)
{
	int fd;

	STATUS("hard1"), STATUS("hard2");
	CALL(number("hard1") == number("hard2"));
	fd = open("hard1", O_WRONLY);
	CALL(write(fd, "both", 4));
	close(fd);
	CONTENT("hard2"), STATUS("hard1"), STATUS("hard2");
	CALL(number("hard1") == number("hard2"));
	CALL(link("hard2", "hard3"));
	STATUS("hard1"), CONTENT("hard3");
	CALL(unlink("hard1"));
	STATUS("hard2"), CONTENT("hard3"), STATUS("hard1");
	CALL(rename("hard2", "hard4"));
	STATUS("hard4"), STATUS("hard2"), CALL(rename("hard3", "hard4"));
	STATUS("hard3");
	CALL(unlink("pair1"));
	STATUS("pair2"), CONTENT("pair2");
	CALL(chmod("pair2", 0604));
	STATUS("pair2");
	CALL(link("single", "second"));
	STATUS("single"), STATUS("second");
	CALL(chmod("second", 0611));
	STATUS("single");
	CALL(link("dangling", "dangling2"));
	STATUS("dangling2");
	CALL(link("single", "second")), CALL(link("dir", "dir2"));
}

/* -- all the rest -- */

static void make_new_ones(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "dir/socket" };
	int fd = open("dir", O_TMPFILE | O_RDWR, 0644), server = socket(AF_UNIX, SOCK_STREAM, 0);
	int client = socket(AF_UNIX, SOCK_STREAM, 0), fifo;

	CALL(write(fd, "temporary", 9));
	sprintf(buffer, "/proc/self/fd/%d", fd);
	CALL(linkat(AT_FDCWD, buffer, AT_FDCWD, "dir/linked", AT_SYMLINK_FOLLOW));
	close(fd);
	STATUS("dir/linked"), CONTENT("dir/linked");
	CALL(bind(server, (void *)&address, sizeof(address)));
	CALL(listen(server, 1));
	CALL(connect(client, (void *)&address, sizeof(address)));
	close(server), close(client);
	CALL(mkfifo("dir/fifo", 0600));
	fifo = open("dir/fifo", O_RDWR);
	CALL(write(fifo, "through", 7)), CALL(read(fifo, buffer, 100));
	close(fifo);
	fifo = open("pipe", O_RDWR);
	CALL(write(fifo, "through", 7)), CALL(read(fifo, buffer, 100));
	close(fifo);
	LIST("dir");
	fd = open("file", O_RDWR);
	CALL(flock(fd, LOCK_EX));
	client = open("file", O_RDONLY);
	CALL(flock(client, LOCK_SH | LOCK_NB));
	close(fd);
	CALL(flock(client, LOCK_SH | LOCK_NB));
	close(client);
	CALL(mknod("whiteout", S_IFCHR, 0));
	unlink("whiteout");
	CALL(access("locked/x", F_OK));
	CALL(symlink("dir/linked", "names/link"));
	CALL(readlink("names/link", buffer, 100));
}

static void watch(void)
{
	int fd = inotify_init1(IN_NONBLOCK), file;
	ssize_t size;

	CALL(inotify_add_watch(fd, "watched", IN_ALL_EVENTS));
	CALL(inotify_add_watch(fd, "watched/file", IN_ALL_EVENTS));
	file = open("watched/file", O_WRONLY);
	CALL(write(file, "x", 1));
	close(file);
	CALL(rename("watched/file", "watched/new"));
	CALL(chmod("watched/other", 0600));
	CALL(unlink("watched/other"));
	CALL(unlink("watched/new"));
	size = read(fd, buffer, sizeof(buffer));
	for (ssize_t at = 0; at < size;) {
		struct inotify_event *event = (struct inotify_event *)(buffer + at);

		printf("    %d %x %s\n", event->wd, event->mask, event->len ? event->name : "");
		at += sizeof(*event) + event->len;
	}
	close(fd);
}

/* Entries that are removed while a directory is read. */
static void list_while_removing(void)
{
	DIR *directory = opendir("many");
	unsigned int seen = 0, removed = 0;
	struct dirent *entry;
	long middle = 0;
	char first[256] = "";

	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		if (++seen == 100)
			middle = telldir(directory);
		if (seen == 101)
			strcpy(first, entry->d_name);
		if (seen % 2)
			removed += !unlinkat(dirfd(directory), entry->d_name, 0);
	}
	printf("    saw %u, removed %u\n", seen, removed);
	seekdir(directory, middle);
	entry = readdir(directory);
	printf("    again at the same place: %d\n", entry && *first);
	rewinddir(directory);
	for (seen = 0; (entry = readdir(directory));)
		seen++;
	printf("    now %u\n", seen);
	closedir(directory);
	LIST("many");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
	umask(022);
	if (argc != 2 || chdir(argv[1]))
		return 1;
	change_contents();
	change_attributes();
	map_contents();
	make_new_ones();
	remove_names();
	rename_files();
	use_links();
	watch();
	list_while_removing();
	rename_directories();
	return 42;
}
