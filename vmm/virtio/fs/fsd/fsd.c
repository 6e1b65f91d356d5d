// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-fsd: the server of a share, in a process of its own.
 *
 * A message says which directory it serves; from then on the process can access nothing else. It shares with the VMM only
 * this socket, guest RAM, kicks and interrupts. One thread serves the socket; each queue has a thread, as in the VMM. The
 * process ends when the VMM ends for any reason: the VMM's end of the socket is closed, and its pidfd becomes readable even
 * if a forked process still has that end.
 */
#include "dataplane/worker.h"

#include "fs/dax/dax.h"
#include "fs/fsd/fsd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

enum { STATUS_PAGE = 4096 };

struct queue {
	struct worker *worker;
	struct ring *ring;
	struct irq irq;
	int kick_fd, event_fd;
};

struct server {
	int vmm_fd; /* pidfd */
	uint32_t isolation;
	struct fs *fs;
	struct mem mem;
	void *ram;
	uint64_t ram_size;
	bool held;      /* nothing lies at `ram`, but its address is kept */
	uint8_t *page, *ring_states;
	uint32_t status_offset;
	struct queue queue[FSD_QUEUES];
	struct worker_stats gone; /* sums of queues that were stopped */
};

static void answer_say(struct fsd_answer *a, const char *text)
{
	snprintf(a->text, sizeof(a->text), "%s", text);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Keep a descriptor of a message, which are closed after it. */
static int keep_fd(int *fd)
{
	int kept = *fd;

	*fd = -1;
	return kept;
}

/* Not after SETUP: the filter does not allow the call. */
static int do_faults(const struct server *s, int device, int *uffd)
{
	int fd;

	if (s->fs)
		return -EBUSY;
	if (device >= 0)
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	*uffd = fd;
	return 0;
}

static int do_setup(struct server *s, const struct fsd_msg *m, int *fds, struct fsd_answer *a)
{
	struct fs_config config = m->config;
	struct isolation isolation = { 0 };
	int err;

	if (s->fs || fds[0] < 0 || fds[1] < 0)
		return -EINVAL;
	s->vmm_fd = keep_fd(&fds[1]);
	err = isolate(&fds[0], &config.proc_fd, &config, &isolation);
	if (err) {
		answer_say(a, isolation.stage);
		return err;
	}
	config.root_fd = fds[0];
	config.dax = NULL;
	if (m->config.dax_size) {
		config.dax = fds[2] >= 0 ? dax_remote_new(fds[2]) : NULL;
		if (!config.dax) {
			answer_say(a, "a DAX window");
			return -EINVAL;
		}
		keep_fd(&fds[2]);
	}
	s->fs = fs_new(&config, &err);
	close(config.proc_fd);
	if (!s->fs) {
		answer_say(a, "opening the share");
		return err;
	}
	err = isolate_seccomp(config.flags & FS_HANDLES);
	if (err)
		answer_say(a, "a seccomp filter");
	s->isolation = a->isolation = isolation.done | FSD_SECCOMP;
	return err;
}

/* at: NULL, or the address, at which nothing must be lost. */
static void *map_fd(int fd, uint64_t size, void *at)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < size)
		return NULL;
	p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED : 0), fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void unmap_all(struct server *s)
{
	if (s->ram)
		munmap(s->ram, s->ram_size);
	if (s->ring_states)
		munmap(s->ring_states, FSD_QUEUES * RING_STATE_STRIDE);
	if (s->page)
		munmap(s->page, STATUS_PAGE);
	s->ram = NULL;
	s->ring_states = s->page = NULL;
	s->held = false;
}

static void each_worker(struct server *s, void (*work)(struct worker *))
{
	for (uint32_t i = 0; i < FSD_QUEUES; i++)
		if (s->queue[i].worker)
			work(s->queue[i].worker);
}

static int do_hold(struct server *s)
{
	if (!s->ram || s->held)
		return -EINVAL;
	each_worker(s, worker_hold);
	if (mmap(s->ram, s->ram_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	s->held = true;
	return 0;
}

/* The rings have addresses in it: RAM is mapped where it was, and is as long. */
static int memory_again(struct server *s, int fd, struct fsd_answer *a)
{
	if (!map_fd(fd, s->ram_size, s->ram)) {
		answer_say(a, "mapping guest memory");
		return -ENOMEM;
	}
	s->held = false;
	a->address = (uintptr_t)s->ram;
	return 0;
}

static int do_go_on(struct server *s)
{
	if (!s->ram || s->held)
		return -EINVAL;
	each_worker(s, worker_go_on);
	return 0;
}

static int check_regions(struct server *s, const struct fsd_msg *m)
{
	uint64_t end = 0;

	if (m->nregions == 0 || m->nregions > MEM_MAX_REGIONS)
		return -EINVAL;
	s->ram_size = 0;
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct fsd_region *r = &m->region[i];

		if (r->size == 0 || r->gpa < end || r->gpa + r->size < r->gpa || r->offset + r->size < r->offset)
			return -EINVAL;
		end = r->gpa + r->size;
		if (r->offset + r->size > s->ram_size)
			s->ram_size = r->offset + r->size;
	}
	return 0;
}

static int do_memory(struct server *s, const struct fsd_msg *m, const int *fds, struct fsd_answer *a)
{
	int err;

	if (s->held)
		return memory_again(s, fds[0], a);
	if (s->ram || m->status_offset % 4 || m->status_offset > STATUS_PAGE - 4)
		return -EINVAL;
	err = check_regions(s, m);
	if (err)
		return err;
	s->ram = map_fd(fds[0], s->ram_size, NULL);
	s->ring_states = map_fd(fds[1], FSD_QUEUES * RING_STATE_STRIDE, NULL);
	s->page = map_fd(fds[2], STATUS_PAGE, NULL);
	if (!s->ram || !s->ring_states || !s->page) {
		answer_say(a, "mapping guest memory");
		unmap_all(s);
		return -ENOMEM;
	}
	a->address = (uintptr_t)s->ram;
	s->status_offset = m->status_offset;
	s->mem.nregions = m->nregions;
	for (uint32_t i = 0; i < m->nregions; i++)
		s->mem.region[i] = (struct mem_region){
			.gpa = m->region[i].gpa,
			.size = m->region[i].size,
			.hva = (uint64_t)(uintptr_t)s->ram + m->region[i].offset,
		};
	return 0;
}

static void queue_close(struct server *s, struct queue *q)
{
	struct worker_stats stats;

	if (q->worker) {
		worker_stop(q->worker);
		worker_get_stats(q->worker, &stats);
		s->gone.kicks += stats.kicks;
		s->gone.chains += stats.chains;
		s->gone.irqs += stats.irqs;
		s->gone.wakeups += stats.wakeups;
		worker_free(q->worker);
	}
	ring_free(q->ring);
	close_fd(&q->kick_fd);
	close_fd(&q->irq.fd);
	close_fd(&q->event_fd);
	*q = (struct queue){ .kick_fd = -1, .event_fd = -1, .irq.fd = -1 };
}

static int do_start(struct server *s, const struct fsd_msg *m, int *fds, struct fsd_answer *a)
{
	struct queue *q;
	int err;

	if (!s->fs || !s->ram || s->held || m->index >= FSD_QUEUES || s->queue[m->index].ring || fds[2] < 0)
		return -EINVAL;
	q = &s->queue[m->index];
	q->ring = ring_new(&s->mem, &m->ring, &err);
	if (!q->ring) {
		answer_say(a, "the queue is not valid");
		return err;
	}
	err = ring_share(q->ring, (struct ring_state *)(void *)(s->ring_states + (size_t)m->index * RING_STATE_STRIDE));
	if (err) {
		queue_close(s, q);
		return err;
	}
	q->kick_fd = keep_fd(&fds[0]);
	q->irq = (struct irq){ .fd = keep_fd(&fds[1]), .status = (uint32_t *)(void *)(s->page + s->status_offset) };
	q->event_fd = keep_fd(&fds[2]);
	q->worker = fs_start(s->fs, q->ring, q->kick_fd, &q->irq, q->event_fd, &err);
	if (q->worker)
		return 0;
	answer_say(a, "starting a thread");
	queue_close(s, q);
	return err;
}

static int do_stop(struct server *s)
{
	for (uint32_t i = 0; i < FSD_QUEUES; i++)
		queue_close(s, &s->queue[i]);
	unmap_all(s);
	return 0;
}

static int do_check(struct server *s, struct fsd_answer *a)
{
	for (uint32_t i = 0; i < FSD_QUEUES; i++) {
		const struct queue *q = &s->queue[i];
		int err = q->worker ? worker_error(q->worker) : 0;

		if (!err)
			continue;
		a->index = i;
		answer_say(a, ring_error(q->ring) ? ring_error(q->ring) : "");
		return err;
	}
	return 0;
}

static int do_stale(struct server *s, struct fsd_answer *a)
{
	int64_t ns = s->fs ? fs_stale(s->fs) : -EINVAL;

	if (ns < 0)
		return (int)ns;
	a->index = (uint32_t)((ns + 999999) / 1000000);
	return 0;
}

static int do_stats(struct server *s, struct fsd_figures *a)
{
	struct worker_stats stats;

	if (!s->fs)
		return -EINVAL;
	a->workers = s->gone;
	for (uint32_t i = 0; i < FSD_QUEUES; i++) {
		if (!s->queue[i].worker)
			continue;
		worker_get_stats(s->queue[i].worker, &stats);
		a->workers.kicks += stats.kicks;
		a->workers.chains += stats.chains;
		a->workers.irqs += stats.irqs;
		a->workers.wakeups += stats.wakeups;
	}
	fs_get_stats(s->fs, &a->fs);
	return 0;
}

/* *came: a descriptor that is sent with the answer, and closed afterwards. */
static int do_message(struct server *s, const struct fsd_msg *m, int *fds, struct fsd_figures *figures, int *came)
{
	struct fsd_answer *a = &figures->answer;

	if (m->version != FSD_VERSION)
		return -EPROTO;
	switch (m->op) {
	case FSD_FAULTS:
		return do_faults(s, fds[0], came);
	case FSD_SETUP:
		return do_setup(s, m, fds, a);
	case FSD_MEMORY:
		return do_memory(s, m, fds, a);
	case FSD_START:
		return do_start(s, m, fds, a);
	case FSD_STOP:
		return do_stop(s);
	case FSD_HOLD:
		return do_hold(s);
	case FSD_GO_ON:
		return do_go_on(s);
	case FSD_RESET:
		if (!s->fs || s->ram)
			return -EBUSY;
		fs_reset(s->fs);
		return 0;
	case FSD_SAVE:
		return s->fs && (!s->ram || s->held) ? fs_save(s->fs, fds[0], a->text) : -EBUSY;
	case FSD_RESTORE:
		return s->fs && (!s->ram || s->held) ? fs_restore(s->fs, fds[0], &a->index) : -EBUSY;
	case FSD_STATS:
		return do_stats(s, figures);
	case FSD_STALE:
		return do_stale(s, a);
	case FSD_CHECK:
		return do_check(s, a);
	default:
		return -EOPNOTSUPP;
	}
}

/* Serve one message; false: the VMM's end is closed. */
static bool message_serve(struct server *s)
{
	static struct fsd_figures answer;
	struct fsd_msg msg;
	int fds[FSD_FDS], came = -1, err;

	err = fd_socket_recv(FSD_SOCKET, &msg, sizeof(msg), fds, FSD_FDS);
	if (err)
		return false;
	memset(&answer, 0, fsd_answer_size(msg.op));
	answer.answer.version = FSD_VERSION;
	answer.answer.op = msg.op;
	answer.answer.result = do_message(s, &msg, fds, &answer, &came);
	for (int i = 0; i < FSD_FDS; i++)
		close_fd(&fds[i]);
	err = fd_socket_send(FSD_SOCKET, &answer, fsd_answer_size(msg.op), &came, 1);
	close_fd(&came);
	return err == 0;
}

/* Close all other descriptors, and open 0 to 2, so that no file of the guest gets these numbers. */
static bool close_others(void)
{
	int null;

	if (syscall(SYS_close_range, FSD_SOCKET + 1, ~0U, 0) < 0)
		return false;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return false;
	for (int fd = 0; fd < FSD_SOCKET; fd++)
		if (fd != null && dup2(null, fd) < 0)
			return false;
	if (null >= FSD_SOCKET)
		close(null);
	return fcntl(FSD_SOCKET, F_SETFD, FD_CLOEXEC) == 0;
}

int main(void)
{
	static struct server server = { .vmm_fd = -1 };
	struct pollfd ready[2] = { { .fd = FSD_SOCKET, .events = POLLIN }, { .events = POLLIN } };

	if (!close_others())
		return 1;
	for (uint32_t i = 0; i < FSD_QUEUES; i++)
		server.queue[i] = (struct queue){ .kick_fd = -1, .event_fd = -1, .irq.fd = -1 };
	for (;;) {
		ready[1].fd = server.vmm_fd;
		if (poll(ready, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		if (ready[1].revents)
			break;
		if (ready[0].revents && !message_serve(&server))
			break;
	}
	/* Do not wait for threads or I/O in flight: the VMM does not exist any more. */
	_exit(0);
}
