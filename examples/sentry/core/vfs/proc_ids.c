// SPDX-License-Identifier: Apache-2.0
/* The maps of the user namespace, as /proc shows them: they are set before the first program runs. */
#include "../id_map.h"
#include "process_file.h"

static void put_column(struct text *text, u32 value)
{
	u32 digits = 1;

	for (u32 rest = value / 10; rest; rest /= 10)
		digits++;
	for (; digits < 10; digits++)
		text_put(text, " ");
	text_number(text, value);
}

static void put_map(struct text *text, const struct id_map *map)
{
	static const struct id_range all = { 0, 0, ~0u };
	const struct id_range *ranges = map->count ? map->ranges : &all;

	for (u32 i = 0; i < (map->count ? map->count : 1); i++) {
		put_column(text, ranges[i].inside);
		text_put(text, " ");
		put_column(text, ranges[i].outside);
		text_put(text, " ");
		put_column(text, ranges[i].count);
		text_put(text, "\n");
	}
}

void write_uid_map(struct text *text, struct synthetic_inode *node)
{
	if (process_task(node))
		put_map(text, &id_maps.users);
}

void write_gid_map(struct text *text, struct synthetic_inode *node)
{
	if (process_task(node))
		put_map(text, &id_maps.groups);
}

/* A container's namespace has no projects. */
void write_projid_map(struct text *text, struct synthetic_inode *node)
{
	static const struct id_map all = { .count = 0 };

	if (process_task(node) && !id_maps.users.count)
		put_map(text, &all);
}
