// SPDX-License-Identifier: Apache-2.0
/* The user namespace of a sandbox: its maps, and the rights of programs in it. */
#include "control/control.h"
#include "id_map.h"
#include "slab.h"
#include "vfs/caller.h"

struct id_maps id_maps;

bool id_map_has(const struct id_map *map, u32 id)
{
	for (u32 i = 0; i < map->count; i++)
		if (id >= map->ranges[i].inside && id - map->ranges[i].inside < map->ranges[i].count)
			return true;
	return !map->count && id != NO_ID;
}

static bool is_apart(u32 a, u32 a_count, u32 b, u32 b_count)
{
	return a < b ? b - a >= a_count : a - b >= b_count;
}

bool id_map_valid(const struct id_map *map)
{
	for (u32 i = 0; i < map->count; i++) {
		const struct id_range *a = &map->ranges[i];

		if (!a->count || a->count > NO_ID - a->inside || a->count > NO_ID - a->outside)
			return false;
		for (u32 j = 0; j < i; j++) {
			const struct id_range *b = &map->ranges[j];

			if (!is_apart(a->inside, a->count, b->inside, b->count) ||
			    !is_apart(a->outside, a->count, b->outside, b->count))
				return false;
		}
	}
	return true;
}

static bool map_equal(const struct id_map *a, const struct id_map *b)
{
	return a->count == b->count && bytes_equal(a->ranges, b->ranges, a->count * sizeof(*a->ranges));
}

bool id_maps_equal(const struct id_maps *a, const struct id_maps *b)
{
	return map_equal(&a->users, &b->users) && map_equal(&a->groups, &b->groups);
}

void id_maps_free(struct id_maps *maps)
{
	kfree(maps->users.ranges);
	kfree(maps->groups.ranges);
	*maps = (struct id_maps){ .users = { .count = 0 } };
}

u32 id_shown(u32 id)
{
	return id == NO_ID ? NOBODY : id;
}

/* The tasks that make containers act for the host. */
static bool is_outside(void)
{
	return !core.current || core.current->process == control_process();
}

bool capable_over(const struct inode *inode, u32 capability)
{
	const bool known = inode->user != NO_ID && (capability == CAP_FOWNER || inode->group != NO_ID);

	return (known || is_outside()) && caller_capable(capability);
}

bool capable_outside(u32 capability)
{
	return (!id_maps.users.count || is_outside()) && caller_capable(capability);
}
