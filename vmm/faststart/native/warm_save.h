/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of an image that is being made. */
#ifndef VMM_WARM_SAVE_H
#define VMM_WARM_SAVE_H

#include "base/native.h"

#include "warm.h"

enum { MAX_FILES = 1024, MAX_REGIONS = 2048, MAX_SIGNALS = 64, MAX_TEXT = 256 << 10, MAX_MAPS = 2 << 20 };

/* All that is needed to write, in memory that is shared so that it is told from the process's own. */
struct save {
	struct warm_header header;
	struct warm_file files[MAX_FILES];
	struct warm_region regions[MAX_REGIONS];
	struct warm_signal signals[MAX_SIGNALS];
	char text[MAX_TEXT];
	char maps[MAX_MAPS];
	int pagemap, fd;
};

/* What a file of /proc has, ended by a zero; its length, -errno. */
ssize_t warm_read_file(const char *path, char *buffer, size_t size);
/* The index of the file *path*, -errno. */
int warm_add_file(struct save *s, const char *path);
/* Adds all that is mapped; 0 or -errno. */
int warm_add_memory(struct save *s);

#endif
