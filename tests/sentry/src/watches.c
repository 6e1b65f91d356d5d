// SPDX-License-Identifier: Apache-2.0
/* inotify on what one process does: prints the events. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include "report.h"

static char buffer[65536];
static unsigned int cookies[100], cookie_count;

/* Cookies by the order in which they come. */
static unsigned int number_of(unsigned int cookie)
{
	if (!cookie)
		return 0;
	for (unsigned int i = 0; i < cookie_count; i++)
		if (cookies[i] == cookie)
			return i + 1;
	cookies[cookie_count++] = cookie;
	return cookie_count;
}

static void events(int line, int fd)
{
	ssize_t size = read(fd, buffer, sizeof(buffer));

	printf("%d events:%s\n", line, size < 0 ? strerrorname_np(errno) : "");
	for (ssize_t at = 0; at < size;) {
		struct inotify_event *event = (struct inotify_event *)(buffer + at);

		printf("    %d %x %u %u %s\n", event->wd, event->mask, number_of(event->cookie), event->len,
		       event->len ? event->name : "");
		at += sizeof(*event) + event->len;
	}
}

#define EVENTS() events(__LINE__, fd)

static void do_things(int fd)
{
	int file;

	file = open("dir/file", O_CREAT | O_RDWR, 0644);
	EVENTS();
	write(file, "hello", 5), write(file, "hello", 5);
	pread(file, buffer, 3, 0);
	EVENTS();
	ftruncate(file, 3), fchmod(file, 0600);
	close(file);
	EVENTS();
	close(open("dir/file", O_RDONLY));
	close(open("dir/file", O_WRONLY | O_TRUNC));
	EVENTS();
	mkdir("dir/sub", 0755), link("dir/file", "dir/hard"), symlink("x", "dir/link"), mknod("dir/fifo", S_IFIFO | 0600, 0);
	EVENTS();
	rename("dir/file", "dir/new"), rename("dir/new", "outside"), rename("outside", "dir/hard2");
	EVENTS();
	rename("dir/link", "dir/fifo");
	chmod("dir/sub", 0700), chown("dir/hard", 0, 0), truncate("dir/hard", 1);
	utimensat(AT_FDCWD, "dir/hard", NULL, 0);
	EVENTS();
	unlink("dir/hard"), unlink("dir/hard2"), rmdir("dir/sub"), unlink("dir/fifo");
	EVENTS();
}

int main(int argc, char **argv)
{
	int fd, other, watch, size, held;

	if (enter_folder(argc, argv))
		return 1;
	mkdir("dir", 0755);
	TRY(inotify_init1, 5);
	fd = TRY(inotify_init1, IN_NONBLOCK);
	TRY(inotify_add_watch, fd, "absent", IN_ALL_EVENTS);
	TRY(inotify_add_watch, fd, BAD, IN_ALL_EVENTS);
	TRY(inotify_add_watch, fd, "dir", 0);
	TRY(inotify_add_watch, 99, "dir", IN_ALL_EVENTS);
	TRY(inotify_add_watch, 1, "dir", IN_ALL_EVENTS);
	TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS | IN_MASK_ADD | IN_MASK_CREATE);
	TRY(inotify_rm_watch, fd, 1);
	watch = TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS);
	TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS | IN_MASK_CREATE);
	TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS);
	TRY(read, fd, buffer, 100);
	close(open("dir/f", O_CREAT | O_WRONLY, 0600)), unlink("dir/f");
	TRY(ioctl, fd, FIONREAD, &size);
	printf("    %d\n", size);
	TRY(read, fd, buffer, 10);
	EVENTS();
	do_things(fd);
	close(open("dir/file", O_CREAT | O_WRONLY, 0600));
	TRY(inotify_rm_watch, fd, watch);
	TRY(inotify_rm_watch, fd, watch);
	EVENTS();
	TRY(inotify_add_watch, fd, "dir/file", IN_ALL_EVENTS);
	TRY(inotify_add_watch, fd, "dir/file", IN_ONLYDIR | IN_OPEN);
	held = open("dir/file", O_RDWR);
	rename("dir/file", "dir/moved"), chmod("dir/moved", 0600), unlink("dir/moved");
	EVENTS();
	write(held, "x", 1), close(held);
	EVENTS();
	TRY(inotify_add_watch, fd, "dir", IN_CREATE | IN_ONESHOT);
	mkdir("dir/a", 0755), mkdir("dir/b", 0755);
	EVENTS();
	TRY(inotify_add_watch, fd, "dir/a", IN_DELETE_SELF | IN_MOVE_SELF);
	other = open("dir/a", O_RDONLY);
	rename("dir/a", "dir/c"), rmdir("dir/c");
	EVENTS();
	close(other);
	EVENTS();
	TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS & ~(IN_OPEN | IN_CLOSE));
	syscall(SYS_getdents64, open("dir", O_RDONLY), buffer, 1000);
	EVENTS();
	TRY(inotify_add_watch, fd, "dir", IN_ALL_EVENTS);
	mkfifo("dir/fifo", 0600);
	TRY(openat, AT_FDCWD, "dir/fifo", O_WRONLY | O_NONBLOCK);
	EVENTS();
	TRY(read, fd, BAD, 1000);
	mkdir("dir/one", 0755), mkdir("dir/two", 0755);
	TRY(read, fd, BAD, 1000);
	EVENTS();
	return 42;
}
