// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-fs (virtio 1.2, 5.11): a share, its queues and their threads.
 *
 * Each queue has a thread that does its requests one after the other. The threads share nodes and open files; each has its
 * own buffers, statistics, and credentials.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Publish after so many requests, or so many bytes: the guest works on them while the worker continues. */
enum { BATCH = 32, BATCH_BYTES = 64 << 10 };

struct fs *fs_new(const struct fs_config *config, int *err)
{
	struct fs *fs;

	*err = -EINVAL;
	if (config->users.nmaps > FS_MAPS || config->groups.nmaps > FS_MAPS || config->cache > FS_CACHE_ALWAYS || (config->max_fds && config->max_fds < 16))
		return NULL;
	*err = -ENOMEM;
	fs = calloc(1, sizeof(*fs));
	if (!fs)
		return NULL;
	fs->config = *config;
	fs->proc_fd = -1;
	fs->can_switch = fs_can_switch();
	fs->uid = geteuid();
	fs->gid = getegid();
	pthread_mutex_init(&fs->stats_lock, NULL);
	pthread_mutex_init(&fs->programs_lock, NULL);
	fs->root_fd = fcntl(config->root_fd, F_DUPFD_CLOEXEC, 3);
	if (fs->root_fd < 0)
		goto fail;
	if (config->proc_fd >= 0)
		fs->proc_fd = fcntl(config->proc_fd, F_DUPFD_CLOEXEC, 3);
	else
		fs->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fs->proc_fd < 0)
		goto fail;
	*err = fs_nodes_init(fs);
	if (!*err)
		*err = fs_files_init(fs);
	if (!*err)
		*err = fs_locks_init(fs);
	if (!*err)
		return fs;
	fs_free(fs);
	return NULL;
fail:
	*err = -errno;
	fs_free(fs);
	return NULL;
}

void fs_free(struct fs *fs)
{
	if (!fs)
		return;
	fs_locks_free(fs);
	fs_files_free(fs);
	fs_nodes_free(fs);
	if (fs->root_fd >= 0)
		close(fs->root_fd);
	if (fs->proc_fd >= 0)
		close(fs->proc_fd);
	pthread_mutex_destroy(&fs->stats_lock);
	pthread_mutex_destroy(&fs->programs_lock);
	free(fs);
}

static int fs_run(struct worker *w)
{
	struct fs_queue *q = (struct fs_queue *)w;
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = q->iov };
	uint64_t bytes = 0;
	int n, err = 0;

	if (unlikely(!q->entered)) {
		err = fs_thread_enter(q);
		if (err)
			return err;
		q->entered = true;
	}
	n = fs_waits_run(q);
	q->answered = n;
	while (n < BATCH) {
		err = ring_pop(w->ring, &chain);
		if (err <= 0)
			break;
		err = fs_handle(q, &chain);
		if (unlikely(err < 0))
			break;
		stat_add(&w->stats.chains, 1);
		n++;
		bytes += chain.read_len + chain.write_len;
		if (bytes < BATCH_BYTES)
			continue;
		worker_flush(w);
		bytes = 0;
	}
	worker_flush(w);
	/* On a queue of requests without answers (FORGET), the guest waits for none: do not spin for the next. */
	if (q->answered)
		q->answers = true;
	if (n)
		w->in_flight = !q->answers;
	return err < 0 ? err : n;
}

static void fs_sleep(struct worker *w)
{
	struct fs_queue *q = (struct fs_queue *)w;

	if (q->nwaits)
		fs_waits_sleep(q);
	else
		worker_sleep(w);
}

/* Only requests for a lock are in flight between two runs. */
static void fs_drain(struct worker *w)
{
	fs_waits_cancel((struct fs_queue *)w, -EINTR);
}

static void stats_merge(struct fs_stats *to, const struct fs_stats *from)
{
	for (uint32_t op = 0; op < FS_OPS; op++) {
		to->ops[op] += __atomic_load_n(&from->ops[op], __ATOMIC_RELAXED);
		for (uint32_t i = 0; i < FS_BUCKETS; i++)
			to->latency[op][i] += __atomic_load_n(&from->latency[op][i], __ATOMIC_RELAXED);
	}
	to->errors += __atomic_load_n(&from->errors, __ATOMIC_RELAXED);
	to->read_bytes += __atomic_load_n(&from->read_bytes, __ATOMIC_RELAXED);
	to->write_bytes += __atomic_load_n(&from->write_bytes, __ATOMIC_RELAXED);
}

static void fs_destroy(struct worker *w)
{
	struct fs_queue *q = (struct fs_queue *)w;
	struct fs *fs = q->fs;
	struct fs_queue **at;

	pthread_mutex_lock(&fs->stats_lock);
	for (at = &fs->queues; *at != q; at = &(*at)->next)
		;
	*at = q->next;
	stats_merge(&fs->totals, &q->stats);
	pthread_mutex_unlock(&fs->stats_lock);
	free(q->wait);
	munmap(q->buf, 2 * FS_BUF_SIZE);
	free(q);
}

const struct worker_ops fs_worker_ops = {
	.run = fs_run,
	.sleep = fs_sleep,
	.drain = fs_drain,
	.rest = fs_drain,
	.destroy = fs_destroy,
};

struct fs_queue *fs_queue_new(struct fs *fs)
{
	struct fs_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	/* A mapping: pages that no request needs are never touched. */
	q->buf = mmap(NULL, 2 * FS_BUF_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->buf == MAP_FAILED) {
		free(q);
		return NULL;
	}
	q->out = q->buf + FS_BUF_SIZE;
	q->fs = fs;
	pthread_mutex_lock(&fs->stats_lock);
	q->next = fs->queues;
	fs->queues = q;
	pthread_mutex_unlock(&fs->stats_lock);
	return q;
}

struct worker *fs_start(struct fs *fs, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err)
{
	struct fs_queue *q = fs_queue_new(fs);

	*err = -ENOMEM;
	if (!q)
		return NULL;
	*err = worker_start(&q->worker, &fs_worker_ops, ring, kick_fd, irq, event_fd, "pyvmm-fs");
	if (*err) {
		fs_destroy(&q->worker);
		return NULL;
	}
	return &q->worker;
}

void fs_get_stats(struct fs *fs, struct fs_stats *out)
{
	pthread_mutex_lock(&fs->stats_lock);
	*out = fs->totals;
	for (struct fs_queue *q = fs->queues; q; q = q->next)
		stats_merge(out, &q->stats);
	pthread_mutex_unlock(&fs->stats_lock);
	out->files = fs_files_count(fs);
	fs_nodes_count(fs, out);
}
