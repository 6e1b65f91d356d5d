/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The user namespace of a sandbox: which ids of the host its users and groups have.
 *
 * The core counts in ids of the sandbox.  The server of its files translates them, and has NO_ID for the owner of a file
 * that no map has.  Such a file is shown as that of nobody, and no capability of a program holds over it.
 */
#ifndef SENTRY_ID_MAP_H
#define SENTRY_ID_MAP_H

#include "types.h"

struct inode;

enum { NOBODY = 65534, ID_RANGES = 340 }; /* user_namespaces(7) */

struct id_range {
	u32 inside, outside, count;
};

struct id_map {
	u32 count; /* 0: every id is the host's */
	struct id_range *ranges;
};

struct id_maps {
	struct id_map users, groups;
};

extern struct id_maps id_maps;

bool id_map_has(const struct id_map *map, u32 id);
bool id_map_valid(const struct id_map *map); /* no id is there twice, on either side */
bool id_maps_equal(const struct id_maps *a, const struct id_maps *b);
void id_maps_free(struct id_maps *maps);
u32 id_shown(u32 id); /* to programs */
/* Whether the current task has a capability over a file; for CAP_FOWNER, only its user counts. */
bool capable_over(const struct inode *inode, u32 capability);
bool capable_outside(u32 capability); /* what root of a user namespace has not */

#endif
