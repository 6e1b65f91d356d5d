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
	uint64_t id, at, own, sum;
};

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

static bool is_as_told(struct fs *fs, const struct told_of *one)
{
	struct fs_ref ref;
	struct statx st;
	bool same = false;

	if (fs_node_use(fs, one->id, &ref))
		return true; /* the guest has forgotten it */
	if ((ref.fd >= 0 || !node_hold(fs, &ref, NODE_DEPTH)) && !fs_statx(ref.fd, "", &st)) {
		same = told_sum(&st) == one->sum ||
		       (uint64_t)st.stx_ctime.tv_sec * 1000000000u + st.stx_ctime.tv_nsec <= one->own;
		same = same && name_is_same(fs, &ref, &st);
	}
	fs_node_put(fs, &ref);
	return same;
}

int64_t fs_stale(struct fs *fs)
{
	struct fs_nodes *t = fs->nodes;
	struct fs_told *told = t->told;
	struct told_of *list = malloc(RECORDS * sizeof(*list));
	uint64_t now = clock_ns(), last;
	uint32_t count = 0;

	if (!list)
		return -ENOMEM;
	pthread_mutex_lock(&t->lock);
	last = told->lost;
	for (uint32_t i = told->record[0].older; i; i = told->record[i].older) {
		const struct record *r = &told->record[i];

		if (r->at + RELIES_NS <= now || r->at <= last)
			break;
		if (r->node)
			list[count++] = (struct told_of){ node_id(t, r->node), r->at, r->own, r->sum };
	}
	pthread_mutex_unlock(&t->lock);
	/* The newest come first: after one that is different, no other one lasts longer. */
	for (uint32_t i = 0; i < count; i++) {
		if (!is_as_told(fs, &list[i])) {
			last = list[i].at;
			break;
		}
	}
	free(list);
	now = clock_ns();
	return last && last + RELIES_NS > now ? (int64_t)(last + RELIES_NS - now) : 0;
}
