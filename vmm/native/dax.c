// SPDX-License-Identifier: Apache-2.0
/*
 * The DAX window (virtio 1.2, 5.11.6.4): a range of our address space that is guest physical memory, in which pieces of
 * files are mapped.
 *
 * The guest can touch every byte of it at any time, so every byte is always something: anonymous memory, or a file. There
 * must never be a hole. Whatever else this process maps would go there, into the guest's hands; so a mapping is made
 * elsewhere first, where it may fail, and moved over what was there, which the kernel does in one step.
 *
 * A file that shrinks takes pages away under the guest. KVM_RUN then fails without saying where, and dax_fault() looks for
 * slots whose last page is not to be had: that is where a shorter file shows. From its first missing page on such a slot
 * is cut: anonymous memory takes the file's place, and the file's mapping is parked at the same place of a second range.
 * Slots that only happen to be longer than their file (a small file in a large slot) are cut by that, too. So the thread
 * looks at what is cut from time to time: what the guest has not touched, or what the file has again, comes back.
 */
#include "dax.h"
#include "fsd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { PAGE = 4096, SLOT_PAGES = DAX_SLOT / PAGE };
enum { STACK_SIZE = 256 << 10, LOOK_MS = 20, SHRUNK_MS = 100 };

struct slot {
	uint16_t pages; /* of a file; 0: nothing is mapped */
	uint16_t whole; /* of those, how many are in the window; the others are parked */
	uint16_t had;   /* how many of them the guest counts on: cut before that, the file has shrunk */
	bool lost;      /* not parked, but gone: cut for good */
};

struct dax {
	uint64_t size;
	uint8_t *reserved, *window, *park;
	size_t reserved_size;
	pthread_mutex_t lock;
	uint64_t generation; /* atomic */
	uint32_t nslots, ncut;
	struct dax_stats stats;
	int sock, wake_fd;
	bool stop;
	pthread_t thread;
	struct slot slot[];
};

/* Replace a range by fresh memory, or by nothing that could be touched. */
static int fill(void *at, size_t len, int prot)
{
	void *p = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

static int fill_memory(void *at, size_t len)
{
	return fill(at, len, PROT_READ | PROT_WRITE);
}

static void changed(struct dax *dax)
{
	__atomic_fetch_add(&dax->generation, 1, __ATOMIC_RELEASE);
}

/* What lies at from comes to to, in place of what was there. from stays reserved. */
static int move(uint8_t *from, size_t len, uint8_t *to)
{
	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED)
		return 0;
	return -errno;
}

static bool can_be_had(uint8_t *at, size_t len)
{
	return madvise(at, len, MADV_POPULATE_READ) == 0 || (errno != EFAULT && errno != EHWPOISON);
}

static uint8_t *in_window(const struct dax *dax, uint32_t i, uint32_t page)
{
	return dax->window + (size_t)i * DAX_SLOT + (size_t)page * PAGE;
}

static uint8_t *in_park(const struct dax *dax, uint32_t i, uint32_t page)
{
	return dax->park + (size_t)i * DAX_SLOT + (size_t)page * PAGE;
}

static void forget_cut(struct dax *dax, uint32_t i)
{
	struct slot *s = &dax->slot[i];

	if (s->whole == s->pages)
		return;
	fill(in_park(dax, i, 0), DAX_SLOT, PROT_NONE);
	s->whole = s->pages;
	s->lost = false;
	dax->ncut--;
}

static int slot_clear(struct dax *dax, uint32_t i)
{
	int err;

	if (!dax->slot[i].pages)
		return 0;
	err = fill_memory(in_window(dax, i, 0), DAX_SLOT);
	if (err)
		return err;
	forget_cut(dax, i);
	dax->slot[i] = (struct slot){ 0 };
	dax->stats.slots--;
	return 0;
}

/*
 * How many pages of a slot the guest counts on. Those of the file, but a guest that asks for a place behind its end, or again
 * for a slot that has lost pages, does not know how short it is.
 */
static uint16_t counted_on(const struct slot *before, uint64_t pages, uint64_t from, uint64_t end)
{
	uint64_t had = end > from ? (end - from + PAGE - 1) / PAGE : 0;

	if (!had || before->whole < before->had || had > pages)
		had = pages;
	return (uint16_t)had;
}

static int slot_map(struct dax *dax, uint32_t i, size_t len, int fd, uint64_t from, uint64_t end, bool writable)
{
	uint16_t had = counted_on(&dax->slot[i], len / PAGE, from, end);
	int flags = writable ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE, err;
	uint8_t *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, (off_t)from);
	if (p == MAP_FAILED)
		return -errno;
	err = slot_clear(dax, i);
	if (!err && mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, in_window(dax, i, 0)) == MAP_FAILED) {
		err = -errno;
		/* Out of memory in the middle of it: if a hole was left that we cannot close, it is not ours to go on. */
		if (fill_memory(in_window(dax, i, 0), DAX_SLOT))
			abort();
	}
	if (err) {
		munmap(p, len);
		return err;
	}
	dax->slot[i].pages = dax->slot[i].whole = (uint16_t)(len / PAGE);
	dax->slot[i].had = had;
	if (dax->stats.slots++ == 0)
		eventfd_write(dax->wake_fd, 1); /* from now on look whether files shrink */
	return 0;
}

static int check_range(const struct dax *dax, uint64_t offset, uint64_t len)
{
	if (offset % DAX_SLOT || len == 0 || len % PAGE || offset >= dax->size || len > dax->size - offset)
		return -EINVAL;
	return 0;
}

int dax_map(struct dax *dax, uint64_t offset, uint64_t len, int fd, uint64_t from, bool writable)
{
	struct stat st;
	int err = check_range(dax, offset, len);

	if (err || from % PAGE || from > INT64_MAX - len)
		return -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENODEV;
	pthread_mutex_lock(&dax->lock);
	for (uint64_t done = 0; done < len && !err; done += DAX_SLOT)
		err = slot_map(dax, (uint32_t)((offset + done) / DAX_SLOT), len - done < DAX_SLOT ? len - done : DAX_SLOT, fd,
			       from + done, (uint64_t)st.st_size, writable);
	changed(dax);
	dax->stats.maps += !err;
	pthread_mutex_unlock(&dax->lock);
	return err;
}

int dax_unmap(struct dax *dax, uint64_t offset, uint64_t len)
{
	int err = check_range(dax, offset, len);

	if (err)
		return err;
	pthread_mutex_lock(&dax->lock);
	for (uint64_t done = 0; done < len && !err; done += DAX_SLOT)
		err = slot_clear(dax, (uint32_t)((offset + done) / DAX_SLOT));
	changed(dax);
	dax->stats.unmaps += !err;
	pthread_mutex_unlock(&dax->lock);
	return err;
}

void dax_clear(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots; i++)
		slot_clear(dax, i);
	changed(dax);
	pthread_mutex_unlock(&dax->lock);
}

/* ---- pages that are not to be had ---- */

uint64_t dax_generation(const struct dax *dax)
{
	return __atomic_load_n(&dax->generation, __ATOMIC_ACQUIRE);
}

/* Cut a slot at its first page that is missing; its last one is. */
static void slot_cut(struct dax *dax, uint32_t i)
{
	struct slot *s = &dax->slot[i];
	uint32_t good = 0, bad = s->whole - 1u;
	size_t len;

	while (good < bad) {
		uint32_t middle = (good + bad) / 2;

		if (can_be_had(in_window(dax, i, middle), PAGE))
			good = middle + 1;
		else
			bad = middle;
	}
	len = (size_t)(s->whole - bad) * PAGE;
	if (s->whole == s->pages)
		dax->ncut++;
	/* A file that cannot be parked does not come back, until the guest maps it again. */
	if (move(in_window(dax, i, bad), len, in_park(dax, i, bad)))
		s->lost = true;
	fill_memory(in_window(dax, i, bad), len);
	s->whole = (uint16_t)bad;
}

/* thorough: a page in the middle, on a disk that has failed, say. */
static uint32_t find_cuts(struct dax *dax, bool thorough)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dax->nslots; i++) {
		struct slot *s = &dax->slot[i];
		uint32_t first = 0;

		if (!s->whole)
			continue;
		if (!can_be_had(in_window(dax, i, s->whole - 1u), PAGE)) {
			slot_cut(dax, i);
			n++;
		} else if (thorough && !can_be_had(in_window(dax, i, 0), (size_t)s->whole * PAGE)) {
			while (first < s->whole - 1u && can_be_had(in_window(dax, i, first), PAGE))
				first++;
			/* For good: behind it the file is as it should be, which would look as if it had come back. */
			if (s->whole == s->pages)
				dax->ncut++;
			fill_memory(in_window(dax, i, first), (size_t)(s->whole - first) * PAGE);
			s->whole = (uint16_t)first;
			s->lost = true;
			n++;
		}
	}
	return n;
}

uint32_t dax_fault(struct dax *dax)
{
	uint32_t n;

	pthread_mutex_lock(&dax->lock);
	n = find_cuts(dax, false);
	if (!n)
		n = find_cuts(dax, true);
	if (n) {
		changed(dax);
		dax->stats.faults++;
		eventfd_write(dax->wake_fd, 1);
	}
	pthread_mutex_unlock(&dax->lock);
	return n;
}

/* Has the guest touched a page of memory that took a file's place? */
static bool touched(uint8_t *at, uint32_t pages)
{
	unsigned char present[SLOT_PAGES];

	if (mincore(at, (size_t)pages * PAGE, present))
		return true;
	for (uint32_t i = 0; i < pages; i++)
		if (present[i] & 1)
			return true;
	return false;
}

static void look_at_cuts(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots && dax->ncut; i++) {
		struct slot *s = &dax->slot[i];
		uint32_t at = s->whole, n = (uint32_t)s->pages - at;

		if (!n || s->lost)
			continue;
		if ((at < s->had || touched(in_window(dax, i, at), n)) && !can_be_had(in_park(dax, i, at), PAGE))
			continue;
		if (move(in_park(dax, i, at), (size_t)n * PAGE, in_window(dax, i, at)))
			continue;
		forget_cut(dax, i);
		changed(dax);
	}
	pthread_mutex_unlock(&dax->lock);
}

/*
 * KVM lets a vCPU whose interrupts are on wait for a page as if it were on its way, and again when it has not come: such an
 * access never fails. So files are watched for having lost what the guest counts on.
 */
static void look_for_shrunk(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots; i++) {
		const struct slot *s = &dax->slot[i];

		if (!s->had || s->whole < s->had || can_be_had(in_window(dax, i, s->had - 1u), PAGE))
			continue;
		slot_cut(dax, i);
		changed(dax);
		dax->stats.faults++;
	}
	pthread_mutex_unlock(&dax->lock);
}

/* ---- the thread ---- */

/* One question of the other process; false when it is gone, or talks nonsense. */
static bool dax_answer(struct dax *dax)
{
	struct dax_msg msg;
	int32_t answer = -EINVAL;
	int fd;

	if (wire_recv(dax->sock, &msg, sizeof(msg), &fd, 1))
		return false;
	if (msg.op == DAX_MAP && fd >= 0 && msg.writable <= 1)
		answer = dax_map(dax, msg.offset, msg.len, fd, msg.from, msg.writable);
	else if (msg.op == DAX_UNMAP && fd < 0)
		answer = dax_unmap(dax, msg.offset, msg.len);
	if (fd >= 0)
		close(fd);
	return wire_send(dax->sock, &answer, sizeof(answer), NULL, 0) == 0;
}

static void *dax_main(void *arg)
{
	struct dax *dax = arg;
	struct pollfd ready[2] = { { .fd = dax->wake_fd, .events = POLLIN }, { .events = POLLIN } };
	eventfd_t value;

	while (!__atomic_load_n(&dax->stop, __ATOMIC_ACQUIRE)) {
		int wait;

		pthread_mutex_lock(&dax->lock);
		ready[1].fd = dax->sock;
		wait = dax->ncut ? LOOK_MS : dax->stats.slots ? SHRUNK_MS : -1;
		pthread_mutex_unlock(&dax->lock);
		if (poll(ready, 2, wait) == 0) {
			look_at_cuts(dax);
			look_for_shrunk(dax);
		}
		if (ready[0].revents)
			eventfd_read(dax->wake_fd, &value);
		if (ready[1].revents && !dax_answer(dax)) {
			pthread_mutex_lock(&dax->lock);
			close(dax->sock);
			dax->sock = -1;
			pthread_mutex_unlock(&dax->lock);
		}
		ready[0].revents = ready[1].revents = 0;
	}
	return NULL;
}

int dax_pair(int *ours, int *child)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*ours = pair[0];
	*child = pair[1];
	return 0;
}

int dax_serve(struct dax *dax, int sock)
{
	int err = -EBUSY;

	pthread_mutex_lock(&dax->lock);
	if (dax->sock < 0) {
		dax->sock = sock;
		err = 0;
		eventfd_write(dax->wake_fd, 1);
	}
	pthread_mutex_unlock(&dax->lock);
	return err;
}

static int dax_thread(struct dax *dax)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int err = pthread_attr_init(&attr);

	if (err)
		return -err;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&dax->thread, &attr, dax_main, dax);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (!err)
		pthread_setname_np(dax->thread, "pyvmm-dax");
	return -err;
}

struct dax *dax_new(uint64_t size, int *err)
{
	struct dax *dax;

	*err = -EINVAL;
	if (size == 0 || size % DAX_SLOT || size > 1ULL << 44)
		return NULL;
	*err = -ENOMEM;
	dax = calloc(1, sizeof(*dax) + size / DAX_SLOT * sizeof(dax->slot[0]));
	if (!dax)
		return NULL;
	dax->size = size;
	dax->nslots = (uint32_t)(size / DAX_SLOT);
	dax->sock = -1;
	pthread_mutex_init(&dax->lock, NULL);
	/* Not inherited by forked processes: the window would be copied on write under the guest. */
	dax->reserved_size = 2 * size + DAX_SLOT;
	dax->reserved = mmap(NULL, dax->reserved_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	dax->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dax->reserved == MAP_FAILED || dax->wake_fd < 0)
		goto fail;
	dax->window = dax->reserved + (-(uintptr_t)dax->reserved & (DAX_SLOT - 1));
	dax->park = dax->window + size;
	*err = fill_memory(dax->window, size);
	if (!*err)
		*err = dax_thread(dax);
	if (!*err)
		return dax;
fail:
	if (dax->reserved != MAP_FAILED)
		munmap(dax->reserved, dax->reserved_size);
	if (dax->wake_fd >= 0)
		close(dax->wake_fd);
	pthread_mutex_destroy(&dax->lock);
	free(dax);
	return NULL;
}

void dax_free(struct dax *dax)
{
	if (!dax)
		return;
	__atomic_store_n(&dax->stop, true, __ATOMIC_RELEASE);
	eventfd_write(dax->wake_fd, 1);
	pthread_join(dax->thread, NULL);
	if (dax->sock >= 0)
		close(dax->sock);
	close(dax->wake_fd);
	munmap(dax->reserved, dax->reserved_size);
	pthread_mutex_destroy(&dax->lock);
	free(dax);
}

void *dax_window(const struct dax *dax)
{
	return dax->window;
}

void dax_get_stats(struct dax *dax, struct dax_stats *out)
{
	pthread_mutex_lock(&dax->lock);
	*out = dax->stats;
	out->cut = dax->ncut;
	pthread_mutex_unlock(&dax->lock);
}
