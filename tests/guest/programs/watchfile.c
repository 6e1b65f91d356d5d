// SPDX-License-Identifier: Apache-2.0
/* usage: watchfile FILE: print its line, and its line again whenever somebody has written it. */
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

static int show(const char *path, const char *word)
{
	char line[128] = "";
	FILE *file = fopen(path, "r");

	if (!file || !fgets(line, sizeof(line), file))
		return 1;
	fclose(file);
	printf("%s %s", word, line);
	return fflush(stdout);
}

int main(int argc, char *argv[])
{
	char events[4096];
	int fd = inotify_init();

	if (argc != 2 || inotify_add_watch(fd, argv[1], IN_CLOSE_WRITE) < 0 || show(argv[1], "is"))
		return 1;
	while (read(fd, events, sizeof(events)) > 0) {
		if (show(argv[1], "became"))
			return 1;
	}
	return 1;
}
