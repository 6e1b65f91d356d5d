/* SPDX-License-Identifier: Apache-2.0 */
/* What fs_told.c and fs_stale.c have in common. */
#ifndef VMM_NATIVE_FS_TOLD_H
#define VMM_NATIVE_FS_TOLD_H

#include "fs/fs_inode.h"

enum { RECORDS = TOLD_MAX };
/* The guest counts from when it reads the answer, in ticks of up to 10 ms. */
enum { RELIES_NS = 1100000000 };
/* A guest is paused for less until its shares are saved. */
enum { PAUSED_S = 10 };

struct record {
	uint64_t at;           /* CLOCK_MONOTONIC */
	uint64_t own;          /* the guest's own last change since: CLOCK_REALTIME */
	uint64_t sum;          /* of the attributes */
	uint64_t ctime;        /* CLOCK_REALTIME; 0: the file is a copy of the one that the guest was told of */
	uint32_t node;         /* 0: none */
	uint32_t newer, older; /* circular; record 0 is the head */
};

struct fs_told {
	struct record record[RECORDS];
	uint32_t top;
	uint64_t lost; /* when the last node was told of that has no record */
};

/* A sum of the attributes that the guest relies on, but for the time of the last change. */
uint64_t told_sum(const struct statx *st);
uint64_t told_ctime(const struct statx *st);

#endif
