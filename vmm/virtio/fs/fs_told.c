// SPDX-License-Identifier: Apache-2.0
/*
 * Records of what the guest was told lately of files that the host may change. The table of records is a list in the order of
 * time. fs_stale.c compares them with what is there now.
 */
#include "fs/fs_told.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

int told_init(struct fs_nodes *t)
{
	t->told = fs_table(sizeof(*t->told));
	if (t->told)
		t->told->top = 1;
	return t->told ? 0 : -ENOMEM;
}

void told_free(struct fs_nodes *t)
{
	if (t->told)
		munmap(t->told, sizeof(*t->told));
}

static uint64_t real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
	sum = (sum ^ value) * 0x9e3779b97f4a7c15u;
	return sum ^ sum >> 29;
}

/* Not the time of access: the host's readers change it, and nobody relies on it. */
uint64_t told_sum(const struct statx *st)
{
	uint64_t sum = mix(st->stx_size, (uint64_t)st->stx_mtime.tv_sec << 32 | st->stx_mtime.tv_nsec);

	sum = mix(sum, (uint64_t)st->stx_uid << 32 | st->stx_gid);
	return mix(sum, (uint64_t)st->stx_nlink << 16 | st->stx_mode);
}

uint64_t told_ctime(const struct statx *st)
{
	return (uint64_t)st->stx_ctime.tv_sec * 1000000000u + st->stx_ctime.tv_nsec;
}

/* Whether the host may change the files of a node: not a container's root, nor where only mount points are. */
static bool is_shared(const struct fs *fs, uint32_t domain)
{
	const struct fs_nodes *t = fs->nodes;

	return !t->domain[domain].sole && !(*fs->config.sole && domain == t->node[ROOT].domain);
}

static void record_unlink(struct fs_told *told, uint32_t i)
{
	struct record *r = &told->record[i];

	told->record[r->newer].older = r->older;
	told->record[r->older].newer = r->newer;
}

static void record_link(struct fs_told *told, uint32_t i)
{
	struct record *r = &told->record[i], *head = &told->record[0];

	r->newer = 0;
	r->older = head->older;
	told->record[r->older].newer = i;
	head->older = i;
}

void told_forget(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];

	if (n->told)
		t->told->record[n->told].node = 0;
	n->told = 0;
}

/* A record for the node, the oldest one if none is unused. */
static struct record *record_take(struct fs_nodes *t, uint32_t index)
{
	struct fs_told *told = t->told;
	uint32_t i = t->node[index].told;

	if (i) {
		record_unlink(told, i);
	} else if (told->top < RECORDS) {
		i = told->top++;
	} else {
		i = told->record[0].newer;
		record_unlink(told, i);
		if (told->record[i].node) {
			told->lost = told->record[i].at;
			told_forget(t, told->record[i].node);
		}
	}
	record_link(told, i);
	t->node[index].told = i;
	return &told->record[i];
}

uint64_t node_tell(struct fs *fs, uint32_t index, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	struct node *n = &t->node[index];
	struct record *r;

	if (n->unopened)
		return 0;
	if (fs->config.cache == FS_CACHE_AUTO && is_shared(fs, n->domain)) {
		r = record_take(t, index);
		r->at = clock_ns();
		r->own = 0;
		r->sum = told_sum(st);
		r->ctime = told_ctime(st);
		r->node = index;
	}
	return fs_timeout(fs);
}

void told_lost(struct fs *fs, uint32_t domain)
{
	if (fs->config.cache == FS_CACHE_AUTO && is_shared(fs, domain))
		fs->nodes->told->lost = clock_ns();
}

void node_changed(struct fs_nodes *t, uint32_t index)
{
	uint32_t i = t->node[index].told;

	if (i)
		t->told->record[i].own = real_ns();
}

void told_again(struct fs *fs, const struct told *one)
{
	struct fs_nodes *t = fs->nodes;
	struct record *r;

	if (one->index < ROOT || one->index >= t->top || !t->node[one->index].used)
		return; /* its file is gone: the guest gets ESTALE */
	r = record_take(t, one->index);
	r->at = clock_ns();
	r->own = one->own;
	r->sum = one->sum;
	r->ctime = one->ctime;
	r->node = one->index;
}
