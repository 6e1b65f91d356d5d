// SPDX-License-Identifier: Apache-2.0
/*
 * creates FOLDER COUNT [closed] [close | compute | exit]: makes files as tar does, in a new directory; then reads each.  At the end
 * it makes another one, and writes a line.
 *
 * closed: attributes are set by name, when the file is closed.  close: instead of the line, it closes its output; compute: it
 * makes no call any more; exit: it ends at once.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition) ((condition) ? (void)0 : (perror(#condition), exit(1)))

static const struct timespec times[2] = { { 1600000000, 5 }, { 1700000000, 6 } };

static bool closed;

static void make(const char *name)
{
	const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	CHECK(fd >= 0);
	CHECK(write(fd, name, strlen(name)) == (ssize_t)strlen(name));
	if (closed) {
		CHECK(!close(fd));
		CHECK(!chown(name, getuid(), getgid()));
		CHECK(!chmod(name, 0751));
		CHECK(!utimensat(AT_FDCWD, name, times, 0));
		return;
	}
	CHECK(!futimens(fd, times));
	CHECK(!fchown(fd, getuid(), getgid()));
	CHECK(!fchmod(fd, 0751));
	CHECK(!close(fd));
}

static void look(const char *name)
{
	const int fd = open(name, O_RDONLY);
	struct stat stat;
	char text[256] = "";

	CHECK(fd >= 0 && read(fd, text, sizeof(text)) == (ssize_t)strlen(name) && !strcmp(text, name));
	CHECK(!fstat(fd, &stat) && stat.st_mode == (S_IFREG | 0751) && stat.st_mtim.tv_sec == times[1].tv_sec);
	CHECK(stat.st_mtim.tv_nsec == times[1].tv_nsec && stat.st_size == (off_t)strlen(name));
	CHECK(!close(fd));
}

int main(int argc, char **argv)
{
	const char *end = argc > 3 ? argv[argc - 1] : "";
	char name[64];

	closed = argc > 3 && !strcmp(argv[3], "closed");
	CHECK(argc >= 3 && !mkdir(argv[1], 0755) && !chdir(argv[1]));
	for (int i = 0; i < atoi(argv[2]); i++) {
		snprintf(name, sizeof(name), "file %d", i);
		make(name);
	}
	for (int i = 0; i < atoi(argv[2]); i++) {
		snprintf(name, sizeof(name), "file %d", i);
		look(name);
	}
	/* Who waits for this line finds all as it is to be. */
	CHECK(open("last", O_WRONLY | O_CREAT | O_EXCL, 0600) >= 0);
	make("really last");
	while (!strcmp(end, "compute"))
		;
	if (!strcmp(end, "exit"))
		return 0;
	CHECK(!strcmp(end, "close") ? !close(1) : write(1, "done\n", 5) == 5);
	return read(0, name, 1) < 0;
}
