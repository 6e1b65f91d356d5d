// SPDX-License-Identifier: Apache-2.0
/* Changes of a directory, as records: event, path. */
#include "box.h"

#include <errno.h>
#include <fts.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum { MOST = 8192, EVENTS = IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB };

static char *paths[MOST]; /* of watches, by their number */

static void watch(int fd, const char *path)
{
	int number = inotify_add_watch(fd, path, EVENTS | IN_ONLYDIR);

	if (number >= MOST) /* inotify does not use a number again */
		printf("overflow%c%s%c", 0, path, 0);
	else if (number > 0 && !paths[number])
		paths[number] = strdup(path);
}

static void watch_tree(int fd, const char *path)
{
	char *roots[] = { (char *)path, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	while (fts && (entry = fts_read(fts))) {
		if (entry->fts_info == FTS_D)
			watch(fd, entry->fts_path);
	}
	if (fts)
		fts_close(fts);
}

static const char *name_of(uint32_t mask)
{
	return mask & IN_CREATE ? "create" : mask & (IN_DELETE | IN_MOVED_FROM) ? "remove" : mask & IN_MOVED_TO ? "create" :
	       mask & IN_CLOSE_WRITE ? "write" : "attributes";
}

static void report(int fd, const struct inotify_event *event, bool deep)
{
	char path[2 * PATH_MAX];

	if (event->mask & IN_Q_OVERFLOW) {
		printf("overflow%c%c", 0, 0);
		return;
	}
	if (event->mask & IN_IGNORED && event->wd < MOST) { /* the directory was removed */
		free(paths[event->wd]);
		paths[event->wd] = NULL;
		return;
	}
	if (event->wd < 0 || event->wd >= MOST || !paths[event->wd] || !event->len ||
	    !strncmp(event->name, UNFINISHED, strlen(UNFINISHED)))
		return;
	snprintf(path, sizeof(path), "%s/%s", paths[event->wd], event->name);
	printf("%s%c%s%c", name_of(event->mask), 0, path, 0);
	if (deep && event->mask & IN_ISDIR && event->mask & (IN_CREATE | IN_MOVED_TO))
		watch_tree(fd, path);
}

/* watch PATH deep|flat: until standard input ends. The first record is "ready". */
int box_watch(int argc, char **argv)
{
	_Alignas(struct inotify_event) char buffer[CHUNK];
	bool deep = !strcmp(argv[1], "deep");
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	struct pollfd polled[2] = { { fd, POLLIN, 0 }, { 0, POLLIN, 0 } };

	(void)argc;
	if (fd < 0 || inotify_add_watch(fd, argv[0], EVENTS | IN_ONLYDIR) < 0)
		return errno;
	if (deep)
		watch_tree(fd, argv[0]);
	else
		watch(fd, argv[0]);
	printf("ready%c%c", 0, 0);
	while (!fflush(stdout) && poll(polled, 2, -1) > 0) {
		ssize_t size = read(fd, buffer, sizeof(buffer));

		for (ssize_t at = 0; at < size;) {
			const struct inotify_event *event = (const void *)(buffer + at);

			report(fd, event, deep);
			at += (ssize_t)sizeof(*event) + event->len;
		}
		if (polled[1].revents && read(0, buffer, 1) <= 0)
			return 0;
	}
	return 0;
}
