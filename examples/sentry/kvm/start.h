/* SPDX-License-Identifier: Apache-2.0 */
/* The program that the machine runs, and how it prints the program's output. */
#ifndef SENTRY_START_H
#define SENTRY_START_H

#include "kvm.h"

struct start {
	const char *const *argv, *const *envp;
	const char *real_path;
	const char *directory; /* in which the program starts; NULL: the root */
	const u8 *program; /* NULL: it is in the root */
	u64 program_size;
	const u8 *archive; /* of the root; NULL: there is none */
	u64 archive_size;
	u64 initrd; /* its address, at the end of RAM; 0: there is none */
	u32 user, group, pids;
	bool frames; /* see frames.c */
	bool strace;
	u32 terminal; /* streams that are one, and its modes, as in struct core_config */
	const u8 *terminal_modes;
};

/* start.c */
void find_start(const struct start_info *info, u64 kernel, struct start *start);

/* frames.c */
s64 frames_write(int stream, const void *data, u64 size);
s64 frames_read(void *data, u64 size);
bool frames_ended(void);
void frames_end(struct core_exit end);
void frames_point(enum point point, u32 value);

/* main.c */
s64 raw_write(int stream, const void *data, u64 size);
s64 raw_read(void *data, u64 size);

#endif
