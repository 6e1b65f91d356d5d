// SPDX-License-Identifier: Apache-2.0
/*
 * What the guest has been told of files that the host may change, and relies on without asking (FS_CACHE_AUTO): attributes,
 * and which file a name is. Linux's virtio-fs has no message that takes it back. So fs_stale() compares what was told lately
 * with what is there now, and tells how long the guest may still rely on something else. Decision 0009 has the reasons.
 *
 * Each node that the guest was told of lately has a record; the table of records is a list in the order of time.
 */
#include "fs/fs_inode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { RECORDS = 4096 };
/* The guest counts from when it reads the answer, in ticks of up to 10 ms. */
enum { RELIES_NS = 1100000000 };

struct record {
	uint64_t at;           /* CLOCK_MONOTONIC */
	uint64_t own;          /* the guest's own last change since: CLOCK_REALTIME */
	uint64_t sum;          /* of the attributes */
	uint32_t node;         /* 0: none */
	uint32_t newer, older; /* circular; record 0 is the head */
};

struct fs_told {
	struct record record[RECORDS];
	uint32_t top;
	uint64_t lost; /* when the last node was told of that has no record */
};

int told_init(struct fs_nodes *t)
{
	t->told = mmap(NULL, sizeof(*t->told), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->told == MAP_FAILED)
		t->told = NULL;
	else
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
static uint64_t sum_of(const struct statx *st)
{
	uint64_t sum = mix(st->stx_size, (uint64_t)st->stx_mtime.tv_sec << 32 | st->stx_mtime.tv_nsec);

	sum = mix(sum, (uint64_t)st->stx_ctime.tv_sec << 32 | st->stx_ctime.tv_nsec);
	sum = mix(sum, (uint64_t)st->stx_uid << 32 | st->stx_gid);
	return mix(sum, (uint64_t)st->stx_nlink << 16 | st->stx_mode);
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
		r->sum = sum_of(st);
		r->node = index;
	}
	return fs_timeout(fs);
}

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
		same = sum_of(&st) == one->sum ||
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
