// SPDX-License-Identifier: Apache-2.0
/*
 * What the guest has been told of files that the host may change, and relies on without asking (FS_CACHE_AUTO): attributes,
 * and which file a name is. Linux's virtio-fs has no message that takes it back. So fs_stale() compares what was told lately
 * (fs_told.c) with what is there now, and tells how long the guest may still rely on something else. Decision 0009 has the
 * reasons.
 */
#include "fs/fs_told.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t fs_tell(struct fs *fs, uint64_t id, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	uint64_t valid = 0;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index)
		valid = node_tell(fs, index, st);
	pthread_mutex_unlock(&t->lock);
	return valid;
}

void fs_node_changed(struct fs *fs, uint64_t id)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index = (uint32_t)id;

	/* Without the lock: of most files nothing was told lately, and those are written most. */
	if (index >= t->max || !__atomic_load_n(&t->node[index].told, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index)
		node_changed(t, index);
	pthread_mutex_unlock(&t->lock);
}

/* What has to be compared: a copy of a record. */
struct told_of {
	uint64_t id, at;
	struct told told;
};

/* Into list, the newest first: what was told within so many ns. When a file was told of last that has no record, or 0. */
static uint64_t list_told(struct fs *fs, uint64_t within, struct told_of *list, uint32_t *count)
{
	struct fs_nodes *t = fs->nodes;
	struct fs_told *told = t->told;
	uint64_t now = clock_ns(), last;

	*count = 0;
	pthread_mutex_lock(&t->lock);
	last = told->lost && told->lost + within > now ? told->lost : 0;
	for (uint32_t i = told->record[0].older; i; i = told->record[i].older) {
		const struct record *r = &told->record[i];

		if (r->at + within <= now || r->at <= last)
			break;
		if (r->node)
			list[(*count)++] = (struct told_of){ node_id(t, r->node), r->at, { r->own, r->sum, r->ctime, r->node, 0 } };
	}
	pthread_mutex_unlock(&t->lock);
	return last;
}

/* Whether the name of a node still is that file, which has these attributes. */
static bool name_is_same(struct fs *fs, const struct fs_ref *ref, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	char name[FS_NAME_MAX + 1] = "";
	struct fs_ref dir;
	struct statx now;
	bool same = false;

	pthread_mutex_lock(&t->lock);
	if (t->node[ref->index].name) {
		strcpy(name, t->node[ref->index].name);
		node_use(t, t->node[ref->index].parent, &dir);
	}
	pthread_mutex_unlock(&t->lock);
	if (!*name)
		return true;
	if ((dir.fd >= 0 || !node_hold(fs, &dir, NODE_DEPTH)) && !fs_statx(dir.fd, name, &now))
		same = now.stx_ino == st->stx_ino && now.stx_mnt_id == st->stx_mnt_id &&
		       now.stx_dev_major == st->stx_dev_major && now.stx_dev_minor == st->stx_dev_minor;
	fs_node_put(fs, &dir);
	return same;
}

/* Whether it is as the guest was told, or has changed itself; st gets what it is now. */
static bool is_as_told(struct fs *fs, const struct told_of *one, struct statx *st)
{
	struct fs_ref ref;
	bool same = false;

	if (fs_node_use(fs, one->id, &ref))
		return true; /* the guest has forgotten it */
	if ((ref.fd >= 0 || !node_hold(fs, &ref, NODE_DEPTH)) && !fs_statx(ref.fd, "", st)) {
		same = told_ctime(st) <= one->told.own ||
		       (told_sum(st) == one->told.sum && (!one->told.ctime || told_ctime(st) == one->told.ctime));
		same = same && name_is_same(fs, &ref, st);
	}
	fs_node_put(fs, &ref);
	return same;
}

int64_t fs_stale(struct fs *fs)
{
	struct told_of *list = malloc(RECORDS * sizeof(*list));
	uint64_t last, now;
	struct statx st;
	uint32_t count;

	if (!list)
		return -ENOMEM;
	last = list_told(fs, RELIES_NS, list, &count);
	/* The newest come first: after one that is different, no other one lasts longer. */
	for (uint32_t i = 0; i < count; i++) {
		if (!is_as_told(fs, &list[i], &st)) {
			last = list[i].at;
			break;
		}
	}
	free(list);
	now = clock_ns();
	return last && last + RELIES_NS > now ? (int64_t)(last + RELIES_NS - now) : 0;
}

int fs_told_list(struct fs *fs, struct told *list)
{
	struct told_of *found = malloc(RECORDS * sizeof(*found));
	uint32_t count = 0;
	struct statx st;
	bool lost;

	if (!found)
		return -1;
	lost = list_told(fs, RELIES_NS + PAUSED_S * (uint64_t)1000000000, found, &count);
	for (uint32_t i = 0; i < count && !lost; i++) {
		list[i] = found[i].told;
		st.stx_mask = 0;
		/* Its own changes are known to the guest; a copy of the file has another time of them. */
		if (found[i].told.own && is_as_told(fs, &found[i], &st) && st.stx_mask) {
			list[i].sum = told_sum(&st);
			list[i].ctime = told_ctime(&st);
		}
	}
	free(found);
	return lost ? -1 : (int)count;
}
