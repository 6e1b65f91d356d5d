// SPDX-License-Identifier: Apache-2.0
/*
 * The numbers of inodes that the guest is told. They are the host's, until a share is restored in another directory: programs
 * compare st_ino of a file that they have open with that of its name, and SQLite writes to a database no more whose number
 * has changed. So a node that was restored keeps the number that it had, until the guest forgets it; and no other file is
 * told to have that number meanwhile, since two files with one number are one file to programs.
 */
#include "fs/fs_inode.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Of other files that have a number which a restored node is told to have. Hosts give no such large numbers. */
#define INO_OTHER (1ull << 61)

struct inos {
	uint64_t *told;     /* by index of the node; 0: the host's number */
	uint64_t *set;      /* all numbers that are told so, a hash table; also those of nodes that were forgotten */
	uint32_t max, mask;
	bool used;          /* the set is not empty */
};

void inos_free(struct fs_nodes *t)
{
	struct inos *inos = t->inos;

	if (!inos)
		return;
	if (inos->told)
		munmap(inos->told, inos->max * sizeof(*inos->told));
	free(inos->set);
	free(inos);
	t->inos = NULL;
}

int inos_init(struct fs_nodes *t, uint32_t count)
{
	struct inos *inos;
	uint32_t size = 16;

	inos_free(t);
	while (size < count * 2)
		size *= 2;
	inos = t->inos = calloc(1, sizeof(*inos));
	if (!inos)
		return -ENOMEM;
	inos->max = t->max;
	inos->mask = size - 1;
	inos->set = calloc(size, sizeof(*inos->set));
	inos->told = fs_table(inos->max * sizeof(*inos->told));
	if (inos->set && inos->told)
		return 0;
	inos_free(t);
	return -ENOMEM;
}

/* Where a number is in the set, or could be put. */
static uint64_t *ino_place(const struct inos *inos, uint64_t ino)
{
	uint32_t at = (uint32_t)((ino * 0x9e3779b97f4a7c15u) >> 32) & inos->mask;

	while (inos->set[at] && inos->set[at] != ino)
		at = (at + 1) & inos->mask;
	return &inos->set[at];
}

void ino_keep(struct fs_nodes *t, uint32_t index, uint64_t ino)
{
	t->inos->told[index] = ino;
}

void ino_settle(struct fs_nodes *t, uint32_t index, uint64_t ino)
{
	struct inos *inos = t->inos;
	uint64_t *told = &inos->told[index];

	if (*told == ino)
		*told = 0;
	if (!*told)
		return;
	*ino_place(inos, *told) = *told;
	inos->used = true;
}

void inos_settle(struct fs_nodes *t)
{
	if (t->inos && !t->inos->used)
		inos_free(t);
}

void ino_forget(struct fs_nodes *t, uint32_t index)
{
	if (t->inos)
		t->inos->told[index] = 0;
}

uint64_t ino_told(const struct fs_nodes *t, uint32_t index, uint64_t ino)
{
	if (!t->inos)
		return ino;
	if (t->inos->told[index])
		return t->inos->told[index];
	return *ino_place(t->inos, ino) == ino ? ino ^ INO_OTHER : ino;
}
