// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-pmem (virtio 1.2, 5.19): a file of the host, mapped as guest memory. The guest accesses the host's page cache:
 * nothing is copied, and guests with the same file share its pages. The queue is only for flushes.
 *
 * The file may be truncated. Pages that it has lost are replaced by anonymous memory, as in the DAX window (decision 0008),
 * and are mapped again when the file grows. KVM does not always report an access to a lost page, so the worker watches the
 * file by inotify, or checks its size periodically.
 */
#include "pmem/pmem.h"
#include "calls/calls.h"
#include "vcpu/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOOK_MS = 100 };
enum { PMEM_FLUSH = 0, PMEM_OK = 0, PMEM_EIO = 1 };

static uint64_t file_size(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);

	return size > 0 ? (uint64_t)size : 0;
}

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) & ~(to - 1);
}

/* Map from .. to of the file, or anonymous memory, in the window. One call, so that the window never has a hole. */
static int window_map(struct pmem *p, uint64_t from, uint64_t to, bool file)
{
	const int flags = MAP_FIXED | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	void *at;

	if (from == to)
		return 0;
	at = mmap(p->window + from, to - from, PROT_READ | (p->read_only ? 0 : PROT_WRITE), flags, file ? p->fd : -1,
		  file ? (off_t)from : 0);
	return at == MAP_FAILED ? -errno : 0;
}

/* Called while /proc can be opened (not in a jail). Without inotify, the worker checks periodically. */
static void watch_file(struct pmem *p)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
	p->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (p->inotify >= 0 && inotify_add_watch(p->inotify, path, IN_MODIFY) < 0) {
		close(p->inotify);
		p->inotify = -1;
	}
}

struct pmem *pmem_new(int fd, int read_only, int *err)
{
	const uint64_t bytes = file_size(fd);
	struct pmem *p;

	*err = -EINVAL;
	if (!bytes || bytes > PMEM_MOST || (!read_only && bytes % PMEM_ALIGN))
		return NULL;
	*err = -ENOMEM;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->fd = fd;
	p->read_only = read_only;
	p->inotify = -1;
	p->file_end = p->mapped = round_up(bytes, PAGE);
	p->size = round_up(bytes, PMEM_ALIGN);
	p->map_size = p->size + PMEM_ALIGN;
	pthread_mutex_init(&p->lock, NULL);
	p->map = mmap(NULL, p->map_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->map == MAP_FAILED) {
		*err = -errno;
		free(p);
		return NULL;
	}
	p->window = (uint8_t *)round_up((uintptr_t)p->map, PMEM_ALIGN);
	*err = window_map(p, 0, p->mapped, true);
	if (*err) {
		pmem_free(p);
		return NULL;
	}
	watch_file(p);
	return p;
}

void pmem_free(struct pmem *p)
{
	if (!p)
		return;
	if (p->inotify >= 0)
		close(p->inotify);
	munmap(p->map, p->map_size);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int pmem_take_watch(struct pmem *p)
{
	int fd = p->inotify;

	p->inotify = -1;
	return fd;
}

void *pmem_window(const struct pmem *p)
{
	return p->window;
}

uint64_t pmem_size(const struct pmem *p)
{
	return p->size;
}

static uint64_t pmem_generation(const void *pmem)
{
	const struct pmem *p = pmem;

	return __atomic_load_n(&p->generation, __ATOMIC_ACQUIRE);
}

uint32_t pmem_fault(void *pmem)
{
	struct pmem *p = pmem;
	uint64_t end;
	int err = 0;

	pthread_mutex_lock(&p->lock);
	end = round_up(file_size(p->fd), PAGE);
	if (end > p->file_end)
		end = p->file_end;
	if (end == p->mapped) {
		pthread_mutex_unlock(&p->lock);
		return 0;
	}
	err = end < p->mapped ? window_map(p, end, p->mapped, false) : window_map(p, p->mapped, end, true);
	if (!err) {
		p->stats.cuts += end < p->mapped;
		p->mapped = end;
		__atomic_fetch_add(&p->generation, 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&p->lock);
	return !err;
}

/* -- the worker ------------------------------------------------------------------------------------------------------ */

static void pmem_sleep(struct worker *w)
{
	struct pmem *p = (struct pmem *)w;
	struct epoll_event ready[4];
	char events[4096];
	int n;

	n = epoll_wait(w->epoll_fd, ready, 4, p->watching ? -1 : LOOK_MS);
	if (n <= 0)
		pmem_fault(p);
	for (int i = 0; i < n; i++) {
		if (ready[i].data.u64 == WORKER_KICK)
			stat_add(&w->stats.kicks, 1);
		if (ready[i].data.u64 != WORKER_OWN)
			continue;
		while (read(p->inotify, events, sizeof(events)) > 0)
			;
		pmem_fault(p);
	}
}

/* Write the file's data to the disk: PMEM_OK or PMEM_EIO. */
static uint32_t image_flush(struct pmem *p)
{
	int err = p->read_only || fdatasync(p->fd) == 0 ? 0 : errno;

	stat_add(&p->stats.flushes, 1);
	if (!err)
		return PMEM_OK;
	stat_add(&p->stats.errors, 1);
	if (__atomic_exchange_n(&p->stats.last_errno, (uint64_t)err, __ATOMIC_RELAXED) != (uint64_t)err)
		(void)!eventfd_write(p->worker.event_fd, 1);
	return PMEM_EIO;
}

/* One flush serves all requests that were made before it began. */
static int pmem_run(struct worker *w)
{
	struct pmem *p = (struct pmem *)w;
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = p->iov };
	struct pmem_answer answer[PMEM_BATCH];
	bool any = false;
	int n = 0, err = 0;

	while (n < PMEM_BATCH) {
		uint32_t type = UINT32_MAX;

		err = ring_pop(w->ring, &chain);
		if (err <= 0)
			break;
		if (chain.write_len < sizeof(uint32_t)) {
			err = ring_fail(w->ring, -EPROTO, "chain %u has no room for the answer to a flush", chain.head);
			break;
		}
		iov_gather(chain.iov, chain.nread, &type, sizeof(type));
		answer[n].head = chain.head;
		answer[n].flush = chain.read_len >= sizeof(type) && type == PMEM_FLUSH;
		answer[n].nout = iov_cut(chain.iov + chain.nread, chain.nwrite, sizeof(uint32_t));
		/* Four bytes are in at most four buffers. */
		memcpy(answer[n].out, chain.iov + chain.nread, answer[n].nout * sizeof(struct iovec));
		any |= answer[n++].flush;
		stat_add(&w->stats.chains, 1);
	}
	if (n) {
		const uint32_t result = any ? image_flush(p) : PMEM_EIO;

		for (int i = 0; i < n; i++) {
			uint32_t ret = answer[i].flush ? result : PMEM_EIO;

			iov_scatter(answer[i].out, answer[i].nout, &ret, sizeof(ret));
			ring_push(w->ring, answer[i].head, sizeof(ret));
		}
		worker_flush(w);
	}
	return err < 0 ? err : n;
}

static int pmem_begin(struct worker *w)
{
	struct epoll_event modified = { .events = EPOLLIN, .data.u64 = WORKER_OWN };
	struct pmem *p = (struct pmem *)w;

	p->watching = p->inotify >= 0 && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, p->inotify, &modified) == 0;
	seccomp_worker(w);
	return 0;
}

static void pmem_drain(struct worker *w)
{
	(void)w;
}

static void pmem_destroy(struct worker *w)
{
	(void)w; /* a part of the device */
}

const struct worker_ops pmem_ops = {
	.begin = pmem_begin,
	.run = pmem_run,
	.sleep = pmem_sleep,
	.drain = pmem_drain,
	.destroy = pmem_destroy,
};

struct worker *pmem_start(struct pmem *p, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err)
{
	memset(&p->worker, 0, sizeof(p->worker));
	/* Do not spin: a flush takes as long as the disk needs. */
	p->worker.in_flight = 1;
	p->worker.calls = SECCOMP_PMEM;
	*err = worker_start(&p->worker, &pmem_ops, ring, kick_fd, irq, event_fd, "pyvmm-pmem");
	return *err ? NULL : &p->worker;
}

void pmem_get_stats(struct pmem *p, struct pmem_stats *out)
{
	out->flushes = __atomic_load_n(&p->stats.flushes, __ATOMIC_RELAXED);
	out->errors = __atomic_load_n(&p->stats.errors, __ATOMIC_RELAXED);
	out->last_errno = __atomic_load_n(&p->stats.last_errno, __ATOMIC_RELAXED);
	pthread_mutex_lock(&p->lock);
	out->cuts = p->stats.cuts;
	pthread_mutex_unlock(&p->lock);
}

int bus_add_pmem(struct bus *bus, struct pmem *pmem, uint64_t base, uint64_t size)
{
	return bus_add_window(bus, &(struct bus_window){ base, size, pmem, NULL, pmem_fault, pmem_generation });
}
