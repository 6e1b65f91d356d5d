// SPDX-License-Identifier: Apache-2.0
/*
 * Fills guest RAM from a template when it is touched (userfaultfd(2)).
 *
 * RAM is an empty memfd. When a vCPU, another thread, the kernel on behalf of one, or another process that maps RAM
 * (fill_client()) touches a page that is missing, it waits until the thread of this file has copied the template's page
 * there. The copy is atomic: a page is either missing or complete.
 *
 * A bit in `done` means that the page was filled or discarded. If such a page is missing, it was discarded, and is zero: the
 * template's page must not be copied a second time.
 *
 * Ranges that the guest only reads (its kernel's code) need no copy: fill_lay() has RAM show the template's file there, privately, and
 * all clones have these pages in common. Who maps the memfd does not see what the guest writes there afterwards, nor the guest what it
 * writes: another process that touches such a page gets a copy of what the guest has at that moment. fill_together() ends that, for
 * whoever needs all of RAM to be the memfd.
 *
 * Huge pages of RAM are made here, too: a template's as well as those of a machine that boots.
 *
 * Only this thread answers the faults. If it cannot, the process ends, as it does elsewhere when the host cannot bring a
 * page. The thread waits for nothing but the disk with the template.
 */
#include "calls/calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * RAM is divided into pieces of PIECE bytes or more. Those in which the template has data are registered with userfaultfd; in
 * the others the kernel fills pages with zeros.
 */
enum { HUGE = 2 << 20, PIECE = HUGE, PIECES = 32, CLIENTS = 64, MESSAGES = 16 };
/* Bits that are looked at together. */
enum { WORD_PAGES = 64 };
/* A read fault maps the pages around it that are there, by so much (Linux's fault-around). */
enum { FAULT_AROUND = 64 << 10 };
/* If the host has no memory, a copy is tried TRIES times, with pauses of TRY_MS. */
enum { TRIES = 200, TRY_MS = 20 };
/* epoll data: the own userfaultfd; SOURCE_CLIENT + i: that of client i. */
enum { SOURCE_STOP, SOURCE_OWN, SOURCE_CLIENT };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

struct layer {
	const uint8_t *bytes;
	uint8_t *bits; /* the pages that the layer has */
};

struct piece {
	uint64_t start, end;
};

/* Another process that maps RAM. */
struct client {
	int uffd; /* -1: none */
	uint64_t base;
};

struct fill {
	uint8_t *ram;
	uint64_t size;
	int memfd, uffd, stop_fd, epoll_fd;
	uint64_t around;
	struct layer *layer;
	uint32_t layers, pieces, laid_ranges;
	struct piece piece[PIECES];
	/* Where RAM lies over the file of the only layer: ascending, apart from each other. */
	struct piece laid[FILL_LAID];
	bool running;
	pthread_t thread;
	/* Protects the fields below; and held while pages are copied. */
	pthread_mutex_t lock;
	uint8_t *done;
	struct client client[CLIENTS];
	struct fill_first *first; /* NULL, or where faults are recorded */
	uint64_t faults, filled;
};

static const uint8_t zero_page[PAGE] __attribute__((aligned(PAGE)));

static void set_bits(uint8_t *bits, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += PAGE) {
		if (at / PAGE % 8 == 0 && end - at >= 8 * PAGE) {
			bits[at / PAGE / 8] = 0xff;
			at += 7 * PAGE;
		} else {
			bits[at / PAGE / 8] |= (uint8_t)(1 << at / PAGE % 8);
		}
	}
}

static void clear_bit(uint8_t *bits, uint64_t at)
{
	bits[at / PAGE / 8] &= (uint8_t) ~(1 << at / PAGE % 8);
}

static size_t bitmap_size(const struct fill *f)
{
	return (f->size / PAGE + 7) / 8;
}

/* The template's page; NULL: it has none, so the page is zero. */
static const uint8_t *template_page(const struct fill *f, uint64_t at)
{
	for (uint32_t i = f->layers; i-- > 0;)
		if (has_page(f->layer[i].bits, at))
			return f->layer[i].bytes + at;
	return NULL;
}

/* Whether RAM lies over the template's file there. *end becomes where that changes, if that is before it. */
static bool is_laid(const struct fill *f, uint64_t at, uint64_t *end)
{
	for (uint32_t i = 0; i < f->laid_ranges; i++) {
		const struct piece *laid = &f->laid[i];
		const bool inside = at >= laid->start && at < laid->end;
		const uint64_t edge = at < laid->start ? laid->start : laid->end;

		if (edge > at && edge < *end)
			*end = edge;
		if (inside)
			return true;
	}
	return false;
}

static bool is_laid_page(const struct fill *f, uint64_t at)
{
	uint64_t end = at + PAGE;

	return is_laid(f, at, &end);
}

/* ---- set-up ---------------------------------------------------------------------------------------------------------- */

int fill_uffd(int device)
{
	int fd;

	if (device >= 0)
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int fill_device(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int uffd_begin(int uffd)
{
	struct uffdio_api api = { .api = UFFD_API };

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return -errno;
	return api.features & UFFD_FEATURE_MISSING_SHMEM ? 0 : -EOPNOTSUPP;
}

/*
 * Do to a userfaultfd what `act` does, for each run of RAM whose faults it gets: RAM is mapped at base in the process that it belongs
 * to. In our own process (f->uffd) there is another file where RAM is laid.
 */
static int uffd_each(const struct fill *f, int uffd, uint64_t base, int (*act)(int uffd, struct uffdio_range range))
{
	int err = 0;

	for (uint32_t i = 0; i < f->pieces && !err; i++)
		for (uint64_t at = f->piece[i].start, end; at < f->piece[i].end && !err; at = end) {
			bool skip;

			end = f->piece[i].end;
			skip = uffd == f->uffd && is_laid(f, at, &end);
			if (!skip)
				err = act(uffd, (struct uffdio_range){ base + at, end - at });
		}
	return err;
}

static int range_register(int uffd, struct uffdio_range range)
{
	struct uffdio_register r = { .range = range, .mode = UFFDIO_REGISTER_MODE_MISSING };

	return ioctl(uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

static int range_unregister(int uffd, struct uffdio_range range)
{
	ioctl(uffd, UFFDIO_UNREGISTER, &range);
	return 0;
}

/* Ask for the page faults of RAM. */
static int uffd_register(const struct fill *f, int uffd, uint64_t base)
{
	return uffd_each(f, uffd, base, range_register);
}

/*
 * Stop that: the kernel fills pages with zeros from now on. Closing the descriptor is not enough, since a process that was
 * forked from this one may have it, too.
 */
static void uffd_unregister(const struct fill *f, int uffd, uint64_t base)
{
	(void)uffd_each(f, uffd, base, range_unregister);
}

struct fill *fill_new(void *ram, uint64_t size, int memfd, uint32_t around, int *err)
{
	struct fill *f = calloc(1, sizeof(*f));
	int device = fill_device();

	*err = -ENOMEM;
	if (f) {
		f->ram = ram;
		f->size = size;
		f->memfd = memfd;
		f->around = (uint64_t)around * PAGE;
		pthread_mutex_init(&f->lock, NULL);
		for (uint32_t i = 0; i < CLIENTS; i++)
			f->client[i].uffd = -1;
		f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		f->done = calloc(1, bitmap_size(f));
		f->uffd = fill_uffd(device);
		if (f->stop_fd < 0 || f->epoll_fd < 0)
			*err = -errno;
		else if (f->done)
			*err = f->uffd < 0 ? f->uffd : uffd_begin(f->uffd);
	}
	if (device >= 0)
		close(device);
	if (!*err)
		return f;
	if (f)
		fill_free(f);
	return NULL;
}

static int layer_add(struct fill *f, int fd, const uint8_t *bits)
{
	struct layer *more = realloc(f->layer, (f->layers + 1) * sizeof(*more)), *l;
	void *bytes;

	if (!more)
		return -ENOMEM;
	f->layer = more;
	l = &more[f->layers];
	l->bits = calloc(1, bitmap_size(f));
	if (!l->bits)
		return -ENOMEM;
	/* A private mapping: with a shared one, a memfd could not be sealed. */
	bytes = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (bytes == MAP_FAILED) {
		int err = -errno;

		free(l->bits);
		return err;
	}
	madvise(bytes, f->size, MADV_DONTDUMP);
	madvise(bytes, f->size, MADV_DONTFORK);
	l->bytes = bytes;
	if (bits)
		memcpy(l->bits, bits, bitmap_size(f));
	f->layers++;
	return 0;
}

int fill_layer(struct fill *f, int fd, const uint8_t *bits)
{
	int err;

	pthread_mutex_lock(&f->lock);
	err = layer_add(f, fd, bits);
	pthread_mutex_unlock(&f->lock);
	return err;
}

static void layer_free(struct fill *f, struct layer *l)
{
	munmap((void *)(uintptr_t)l->bytes, f->size);
	free(l->bits);
}

void fill_layer_drop(struct fill *f)
{
	pthread_mutex_lock(&f->lock);
	layer_free(f, &f->layer[--f->layers]);
	pthread_mutex_unlock(&f->lock);
}

int fill_merge(struct fill *f, uint32_t n, int fd, const uint8_t *bits)
{
	int err;

	pthread_mutex_lock(&f->lock);
	err = n && n <= f->layers ? layer_add(f, fd, bits) : -EINVAL;
	if (!err) {
		const struct layer one = f->layer[--f->layers];

		for (uint32_t i = 0; i < n; i++)
			layer_free(f, &f->layer[i]);
		f->layers -= n;
		memmove(&f->layer[1], &f->layer[n], f->layers * sizeof(one));
		f->layer[0] = one;
		f->layers++;
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int fill_data(struct fill *f, int fd, uint64_t start, uint64_t end)
{
	uint64_t at = start;

	while (at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at = (uint64_t)hole < end ? (uint64_t)hole : end;
		/* Round to whole pages: the blocks of a file system may be smaller. */
		at = (at + PAGE - 1) & ~(uint64_t)(PAGE - 1);
		if ((uint64_t)data < end)
			set_bits(f->layer[f->layers - 1].bits, (uint64_t)data & ~(uint64_t)(PAGE - 1), at);
	}
	return 0;
}

void fill_layer_bits(const struct fill *f, uint32_t index, uint8_t *bits)
{
	if (index < f->layers)
		memcpy(bits, f->layer[index].bits, bitmap_size(f));
}

static bool has_data(const struct fill *f, uint64_t start, uint64_t end)
{
	/* start is that of a piece, whose bits begin with a word. */
	const uint64_t words = (end - start) / PAGE / WORD_PAGES;

	for (uint32_t i = 0; i < f->layers; i++) {
		const uint8_t *bits = f->layer[i].bits;
		uint64_t any = 0;

		for (uint64_t n = 0; n < words; n++) {
			uint64_t word;

			memcpy(&word, bits + start / PAGE / 8 + n * sizeof(word), sizeof(word));
			any |= word;
		}
		for (uint64_t at = start + words * WORD_PAGES * PAGE; at < end && !any; at += PAGE)
			any = has_page(bits, at);
		if (any)
			return true;
	}
	return false;
}

/* Divide RAM into pieces of at least `size` bytes. False: these would be too many. */
static bool cut_pieces(struct fill *f, uint64_t size)
{
	f->pieces = 0;
	for (uint64_t start = 0; start < f->size; start += size) {
		const uint64_t end = f->size - start > size ? start + size : f->size;
		struct piece *last = f->pieces ? &f->piece[f->pieces - 1] : NULL;

		if (!has_data(f, start, end))
			continue;
		if (last && last->end == start) {
			last->end = end;
			continue;
		}
		if (f->pieces == PIECES)
			return false;
		f->piece[f->pieces++] = (struct piece){ start, end };
	}
	return true;
}

/* ---- filling, under the lock --------------------------------------------------------------------------------------------- */

static void fill_die(int err, uint64_t at)
{
	char text[200];
	int n = snprintf(text, sizeof(text), "pyvmm: page %#llx of guest memory cannot be brought from its template (errno %d): %s\n",
			 (unsigned long long)at, err, "the machine ends");

	(void)!write(STDERR_FILENO, text, (size_t)n);
	for (;;)
		syscall(SYS_exit_group, 1);
}

/*
 * Handle the result of a UFFDIO_COPY or UFFDIO_ZEROPAGE that did not finish. moved: its result, in bytes, or negative. 0:
 * continue at *at; or -errno. EEXIST: another thread has filled the page already.
 */
static int pages_put_result(int64_t moved, int err, uint64_t *at, int *tries)
{
	if (moved > 0) {
		*at += (uint64_t)moved;
		return 0;
	}
	switch (err) {
	case EEXIST:
		*at += PAGE;
		return 0;
	case EAGAIN:
		return 0;
	case ENOMEM:
		if (++*tries < TRIES) {
			poll(NULL, 0, TRY_MS);
			return 0;
		}
		return -ENOMEM;
	default:
		return -err;
	}
}

/* Fill missing pages with the bytes at `from`, or, if it is NULL, with zeros. */
static int pages_put(struct fill *f, uint64_t start, uint64_t end, const uint8_t *from)
{
	uint64_t at = start;
	int tries = 0, err = 0;

	while (at < end && !err) {
		if (from) {
			struct uffdio_copy c = {
				.dst = (uintptr_t)f->ram + at,
				.src = (uintptr_t)from + (at - start),
				.len = end - at,
			};

			if (ioctl(f->uffd, UFFDIO_COPY, &c) == 0)
				break;
			err = pages_put_result(c.copy, errno, &at, &tries);
		} else {
			struct uffdio_zeropage z = { .range = { (uintptr_t)f->ram + at, end - at } };

			if (ioctl(f->uffd, UFFDIO_ZEROPAGE, &z) == 0)
				break;
			err = pages_put_result(z.zeropage, errno, &at, &tries);
		}
	}
	return err;
}

/* Fill the pages between two offsets that are not done and that the template has. The bytes filled, or -errno. */
static int64_t fill_some(struct fill *f, uint64_t start, uint64_t end)
{
	uint64_t at = start, total = 0;

	while (at < end) {
		const uint8_t *from = template_page(f, at);
		uint64_t stop = at + PAGE;
		int err;

		if (has_page(f->done, at) || !from || is_laid_page(f, at)) {
			at = stop;
			continue;
		}
		while (stop < end && !has_page(f->done, stop) && template_page(f, stop) == from + (stop - at) && !is_laid_page(f, stop))
			stop += PAGE;
		err = pages_put(f, at, stop, from);
		if (err)
			return err;
		set_bits(f->done, at, stop);
		total += stop - at;
		at = stop;
	}
	f->filled += total;
	return (int64_t)total;
}

/* ENOENT, ESRCH: the mapping or the process is about to end, and with it the thread that waits. */
static void fill_must(int64_t result, uint64_t at)
{
	if (result < 0 && result != -ENOENT && result != -ESRCH)
		fill_die((int)-result, at);
}

/* Another process touches a page that is laid here: it gets what the guest has there now. */
static int laid_copy(const struct fill *f, int uffd, uint64_t page, uint64_t at)
{
	uint64_t done = 0;
	int tries = 0, err = 0;

	while (!err && done < PAGE) {
		struct uffdio_copy c = { .dst = page, .src = (uintptr_t)f->ram + at, .len = PAGE };

		if (ioctl(uffd, UFFDIO_COPY, &c) == 0)
			break;
		err = pages_put_result(c.copy, errno, &done, &tries);
	}
	return err;
}

static void first_add(struct fill_first *first, uint64_t at)
{
	if (first && first->count < FILL_FIRST) {
		first->page[first->count] = (uint32_t)(at / PAGE);
		__atomic_store_n(&first->count, first->count + 1, __ATOMIC_RELEASE);
	}
}

static void fault_answer(struct fill *f, int uffd, uint64_t base, uint64_t address)
{
	const uint64_t page = address & ~(uint64_t)(PAGE - 1), at = page - base;
	struct uffdio_range who = { page, PAGE };

	if (at < f->size) {
		f->faults++;
		first_add(f->first, at);
		if (is_laid_page(f, at)) {
			fill_must(laid_copy(f, uffd, page, at), at);
		} else if (has_page(f->done, at) || !template_page(f, at)) {
			/* The page was discarded, or the template does not have it, or another fault has filled it. */
			set_bits(f->done, at, at + PAGE);
			fill_must(pages_put(f, at, at + PAGE, NULL), at);
		} else {
			const uint64_t start = at & ~(f->around - 1);
			const uint64_t end = f->size - start > f->around ? start + f->around : f->size;

			/* First the page that a thread waits for; then those around it, some of which may be there already. */
			fill_must(fill_some(f, at, at + PAGE), at);
			fill_must(fill_some(f, start, end), start);
		}
	}
	/* Always wake: the kernel does not, if the fault came by another userfaultfd, or the page was there already. */
	ioctl(uffd, UFFDIO_WAKE, &who);
}

static void faults_answer(struct fill *f, int uffd, uint64_t base)
{
	struct uffd_msg msg[MESSAGES];
	ssize_t got = read(uffd, msg, sizeof(msg));

	for (ssize_t i = 0; i < got / (ssize_t)sizeof(*msg); i++)
		if (msg[i].event == UFFD_EVENT_PAGEFAULT)
			fault_answer(f, uffd, base, msg[i].arg.pagefault.address);
}

static void *fill_main(void *arg)
{
	struct fill *f = arg;
	struct epoll_event event[8];
	eventfd_t count;
	bool stop = false;

	(void)seccomp_enter(SECCOMP_FILL, NULL);
	while (!stop) {
		int n = epoll_wait(f->epoll_fd, event, 8, -1);

		pthread_mutex_lock(&f->lock);
		for (int i = 0; i < n; i++) {
			const uint64_t what = event[i].data.u64;

			if (what == SOURCE_STOP)
				stop = eventfd_read(f->stop_fd, &count) == 0; /* here: who stops it may be a vCPU's thread, which reads nothing */
			else if (what == SOURCE_OWN)
				faults_answer(f, f->uffd, (uintptr_t)f->ram);
			else if (what >= SOURCE_CLIENT && f->client[what - SOURCE_CLIENT].uffd >= 0)
				faults_answer(f, f->client[what - SOURCE_CLIENT].uffd, f->client[what - SOURCE_CLIENT].base);
		}
		pthread_mutex_unlock(&f->lock);
	}
	return NULL;
}

static int source_watch(struct fill *f, int fd, uint64_t source_number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = source_number };

	return epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST ? -errno : 0;
}

/* ---- fill_lay(), fill_ahead(): nobody touches RAM yet, and no piece is registered ----------------------------------------------------- */

int fill_lay(struct fill *f, int fd, uint64_t start, uint64_t end)
{
	const uint64_t last = f->laid_ranges ? f->laid[f->laid_ranges - 1].end : 0;
	int err;

	if (f->laid_ranges == FILL_LAID || f->layers != 1 || start % PAGE || end % PAGE || start < last || start >= end || end > f->size)
		return -EINVAL;
	err = ram_map(f->ram + start, end - start, RAM_OVER_FILE, fd, start);
	if (!err)
		f->laid[f->laid_ranges++] = (struct piece){ start, end };
	return err;
}

/*
 * Write to the memfd the pages between two offsets that the template has; or with bits those that are set there, zeros included, and
 * mark them done.
 */
static int write_pages(struct fill *f, const uint8_t *bits, uint64_t start, uint64_t end)
{
	uint64_t at = start;
	int err = 0;

	while (at < end && !err) {
		const uint8_t *from = template_page(f, at);
		uint64_t stop = at + PAGE;

		if (is_laid_page(f, at)) {
			/* It is there. The bit says that the guest wants it. */
			if (bits && has_page(bits, at))
				set_bits(f->done, at, stop);
		} else if (bits ? has_page(bits, at) : from != NULL) {
			while (from && stop < end && template_page(f, stop) == from + (stop - at) && (!bits || has_page(bits, stop)) &&
			       !is_laid_page(f, stop))
				stop += PAGE;
			err = file_write(f->memfd, from ? from : zero_page, stop - at, at);
			if (bits)
				set_bits(f->done, at, stop);
			if (from)
				f->filled += stop - at;
		}
		at = stop;
	}
	return err;
}

int ram_map(void *at, uint64_t len, uint32_t backing, int fd, uint64_t offset)
{
	const int flags = (backing == RAM_SHARED ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE | MAP_FIXED;

	if (mmap(at, len, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset) == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	madvise(at, len, MADV_DONTDUMP);
	return 0;
}

int ram_huge(void *at, uint64_t len)
{
	/* With this in force for the mapping, some policies have a huge page come when it is touched, and all others one be made. */
	if (madvise(at, len, MADV_HUGEPAGE) < 0)
		return -errno;
	for (uint64_t done = 0; done < len; done += HUGE) {
		uint8_t *piece = (uint8_t *)at + done;

		/* One that has no page is none that could be collapsed. Nobody else has it yet, or it stays what it is. */
		(void)__atomic_fetch_or(piece, 0, __ATOMIC_RELAXED);
		if (madvise(piece, HUGE, MADV_COLLAPSE) < 0)
			return -errno;
	}
	return 0;
}

static uint32_t count_pages(const uint8_t *bits, uint64_t start, uint64_t end)
{
	uint32_t n = 0;

	for (uint64_t at = start; at < end; at += PAGE)
		n += has_page(bits, at);
	return n;
}

int fill_ahead(struct fill *f, const uint8_t *bits, bool huge)
{
	int err = 0;

	for (uint64_t start = 0; start < f->size && !err; start += PIECE) {
		const uint64_t end = f->size - start > PIECE ? start + PIECE : f->size;
		const uint32_t n = count_pages(bits, start, end);
		uint64_t same = end;

		if (!n)
			continue;
		/* No page of a huge one can be missing later, so all of it is filled. */
		if (huge && end - start == PIECE && n >= PIECE / PAGE / 8 * 7 && !is_laid(f, start, &same) && same == end &&
		    ram_huge(f->ram + start, PIECE) == 0) {
			err = write_pages(f, NULL, start, end);
			set_bits(f->done, start, end);
			continue;
		}
		err = write_pages(f, bits, start, end);
		/* Map them: one read for each FAULT_AROUND. */
		for (uint64_t at = start; at < end && !err; at += FAULT_AROUND)
			for (uint64_t page = at; page < at + FAULT_AROUND && page < end; page += PAGE)
				if (has_page(f->done, page)) {
					(void)__atomic_load_n(f->ram + page, __ATOMIC_RELAXED);
					break;
				}
	}
	/* What this has read of the template would stay mapped, as memory of this process. */
	for (uint32_t i = 0; i < f->layers; i++)
		madvise((void *)(uintptr_t)f->layer[i].bytes, f->size, MADV_DONTNEED);
	if (!err)
		return 0;
	/* Remove what was written: a page may be half full. */
	memset(f->done, 0, bitmap_size(f));
	f->filled = 0;
	return madvise(f->ram, f->size, MADV_REMOVE) < 0 ? -errno : 0;
}

int fill_early(struct fill *f, const uint8_t *bits)
{
	uint64_t start, end = 0;
	int err;

	pthread_mutex_lock(&f->lock);
	err = write_pages(f, bits, 0, f->size);
	/* Where this fails (before Linux 5.14), a page is mapped when it is touched. */
	while (!err && mem_run(bits, f->size, &start, &end))
		(void)madvise(f->ram + start, end - start, MADV_POPULATE_WRITE);
	pthread_mutex_unlock(&f->lock);
	return err;
}

static void page_renew(const struct fill *f, uint64_t at)
{
	const uint8_t *from = template_page(f, at);

	if (!from)
		from = zero_page;
	if (memcmp(f->ram + at, from, PAGE) != 0)
		memcpy(f->ram + at, from, PAGE);
}

/* The pages that begin with `page` which are done, and which a layer has that is not one of the first `same`: those of a word at most. */
static uint64_t done_above(const struct fill *f, uint32_t same, uint64_t page, size_t bytes)
{
	uint64_t done = 0, above = same ? 0 : UINT64_MAX, word = 0;

	memcpy(&done, f->done + page / 8, bytes);
	for (uint32_t i = same; same && i < f->layers; i++) {
		memcpy(&word, f->layer[i].bits + page / 8, bytes);
		above |= word;
	}
	return done & above;
}

void fill_renew(struct fill *f, uint32_t same)
{
	const size_t size = bitmap_size(f);

	pthread_mutex_lock(&f->lock);
	for (size_t at = 0; at < size; at += WORD_PAGES / 8) {
		uint64_t left = done_above(f, same, 8 * at, size - at < WORD_PAGES / 8 ? size - at : WORD_PAGES / 8);

		for (; left; left &= left - 1)
			page_renew(f, (8 * at + (uint64_t)__builtin_ctzll(left)) * PAGE);
	}
	pthread_mutex_unlock(&f->lock);
}

void fill_record(struct fill *f, struct fill_first *first)
{
	pthread_mutex_lock(&f->lock);
	f->first = first;
	pthread_mutex_unlock(&f->lock);
}

static void pieces_make(struct fill *f)
{
	uint64_t size = PIECE;

	while (!cut_pieces(f, size))
		size *= 2;
}

int fill_again(struct fill *f, bool empty)
{
	int err;

	pthread_mutex_lock(&f->lock);
	pieces_make(f);
	err = uffd_register(f, f->uffd, (uintptr_t)f->ram);
	if (!err && empty) {
		memset(f->done, 0, bitmap_size(f));
		f->faults = f->filled = 0;
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int fill_start(struct fill *f)
{
	int err;

	pieces_make(f);
	err = source_watch(f, f->stop_fd, SOURCE_STOP);
	if (!err)
		err = source_watch(f, f->uffd, SOURCE_OWN);
	if (!err)
		err = uffd_register(f, f->uffd, (uintptr_t)f->ram);
	return err ? err : fill_go_on(f);
}

int fill_go_on(struct fill *f)
{
	int err = 0;

	if (f->uffd >= 0 && !f->running) {
		err = thread_start(&f->thread, "ram-fill", fill_main, f);
		f->running = !err;
	}
	return err;
}

void fill_rest(struct fill *f)
{
	if (!f->running)
		return;
	(void)!eventfd_write(f->stop_fd, 1);
	pthread_join(f->thread, NULL);
	f->running = false;
}

/* ---- clients: other processes that map RAM ------------------------------------------------------------------------------- */

int fill_client(struct fill *f, int uffd)
{
	int err = uffd_begin(uffd);

	/* EINVAL: the descriptor was used before. */
	if (err && err != -EINVAL)
		return err;
	pthread_mutex_lock(&f->lock);
	for (err = 0; err < CLIENTS && f->client[err].uffd >= 0; err++)
		;
	if (err == CLIENTS) {
		err = -ENOSPC;
	} else {
		int bad = source_watch(f, uffd, SOURCE_CLIENT + (uint64_t)err);

		if (bad)
			err = bad;
		else
			f->client[err] = (struct client){ .uffd = uffd };
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int fill_client_maps(struct fill *f, int client, uint64_t address)
{
	int uffd = -1;

	if (client < 0 || client >= CLIENTS || address % PAGE || address + f->size < address)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	f->client[client].base = address;
	uffd = f->client[client].uffd;
	pthread_mutex_unlock(&f->lock);
	/* Not under the lock: this may wait for that process, and other faults must not wait for it. */
	return uffd < 0 ? -EINVAL : uffd_register(f, uffd, address);
}

static void client_drop(struct fill *f, struct client *c)
{
	if (c->uffd < 0)
		return;
	epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, c->uffd, NULL);
	c->uffd = -1;
}

void fill_client_drop(struct fill *f, int client)
{
	if (client < 0 || client >= CLIENTS)
		return;
	pthread_mutex_lock(&f->lock);
	client_drop(f, &f->client[client]);
	pthread_mutex_unlock(&f->lock);
}

int fill_forget(struct fill *f, void *at, uint64_t len)
{
	const uint64_t start = (uint64_t)((const uint8_t *)at - f->ram);
	uint64_t same = start + len;
	bool laid;

	pthread_mutex_lock(&f->lock);
	laid = is_laid(f, start, &same) || same < start + len;
	if (!laid)
		set_bits(f->done, start, start + len);
	pthread_mutex_unlock(&f->lock);
	/* A guest that gives up the code that it runs. */
	if (laid)
		memset(at, 0, len);
	return laid ? -EBUSY : 0;
}

int fill_unmap(struct fill *f)
{
	int err = 0;

	/* What the guest has written where RAM is laid is nowhere else. */
	for (uint64_t at = 0, end; at < f->size && !err; at = end) {
		end = f->size;
		if (!is_laid(f, at, &end) && madvise(f->ram + at, end - at, MADV_DONTNEED) < 0)
			err = -errno;
	}
	return err;
}

/* Whether the memfd has data there. */
static bool memfd_has(const struct fill *f, struct fill_extent *extent, uint64_t at)
{
	if (at >= extent->hole) {
		off_t data = lseek(f->memfd, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(f->memfd, data, SEEK_HOLE);

		extent->data = data < 0 ? f->size : (uint64_t)data;
		extent->hole = hole < 0 ? f->size : (uint64_t)hole;
	}
	return at >= extent->data;
}

/* Write to the memfd what the guest has in a laid range, where that is not what the template has. */
static int laid_write(struct fill *f, const struct piece *laid)
{
	struct fill_extent extent = { 0 };
	int err = 0;

	for (uint64_t at = laid->start; at < laid->end && !err; at += PAGE) {
		if (memfd_has(f, &extent, at) || fill_differs(f, f->ram + at, at)) {
			err = file_write(f->memfd, f->ram + at, PAGE, at);
			set_bits(f->done, at, at + PAGE);
		} else {
			clear_bit(f->done, at);
		}
	}
	return err;
}

int fill_together(struct fill *f)
{
	int err = 0;

	pthread_mutex_lock(&f->lock);
	while (f->laid_ranges && !err) {
		const struct piece laid = f->laid[f->laid_ranges - 1];

		err = laid_write(f, &laid);
		if (!err)
			err = ram_map(f->ram + laid.start, laid.end - laid.start, RAM_SHARED, f->memfd, laid.start);
		if (err)
			break;
		f->laid_ranges--;
		if (f->uffd >= 0)
			err = uffd_register(f, f->uffd, (uintptr_t)f->ram);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int64_t fill_range(struct fill *f, uint64_t start, uint64_t end)
{
	int64_t total = 0;

	while (start < end) {
		const uint64_t stop = end - start > PIECE / 8 ? start + PIECE / 8 : end;
		int64_t some;

		/* Release the lock between pieces, so that page faults are answered meanwhile. */
		pthread_mutex_lock(&f->lock);
		some = fill_some(f, start, stop);
		pthread_mutex_unlock(&f->lock);
		if (some < 0)
			return some;
		total += some;
		start = stop;
	}
	return total;
}

void fill_places(struct fill *f, const struct mem *mem, const uint64_t *gpa, uint32_t n)
{
	pthread_mutex_lock(&f->lock);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *place = mem_ptr(mem, gpa[i], 1);
		const uint64_t at = (uint64_t)(place - f->ram) & ~(uint64_t)(PAGE - 1);

		/* Whoever touches a page that cannot be filled finds that out. */
		if (place && !has_page(f->done, at))
			(void)fill_some(f, at, at + PAGE);
	}
	pthread_mutex_unlock(&f->lock);
}

void fill_done(struct fill *f, uint8_t *bits)
{
	pthread_mutex_lock(&f->lock);
	memcpy(bits, f->done, bitmap_size(f));
	pthread_mutex_unlock(&f->lock);
}

void fill_own(struct fill *f, uint8_t *bits)
{
	uint64_t at = 0;

	fill_done(f, bits);
	for (uint32_t i = 0; i <= f->pieces; i++) {
		const uint64_t stop = i < f->pieces ? f->piece[i].start : f->size;

		while (at < stop) {
			const off_t data = lseek(f->memfd, (off_t)at, SEEK_DATA);
			off_t hole;

			if (data < 0 || (uint64_t)data >= stop)
				break;
			hole = lseek(f->memfd, data, SEEK_HOLE);
			at = hole < 0 || (uint64_t)hole > stop ? stop : (uint64_t)hole;
			set_bits(bits, (uint64_t)data, at);
		}
		if (i < f->pieces)
			at = f->piece[i].end;
	}
}

void fill_get_stats(struct fill *f, struct fill_stats *out)
{
	pthread_mutex_lock(&f->lock);
	*out = (struct fill_stats){ .faults = f->faults, .filled = f->filled };
	pthread_mutex_unlock(&f->lock);
}

void fill_hold(struct fill *f)
{
	pthread_mutex_lock(&f->lock);
}

void fill_release(struct fill *f)
{
	pthread_mutex_unlock(&f->lock);
}

const uint8_t *fill_look(const struct fill *f, struct fill_extent *extent, uint64_t at, bool *own)
{
	const uint8_t *from;

	if (is_laid_page(f, at)) {
		*own = fill_differs(f, f->ram + at, at);
		return f->ram + at;
	}
	*own = has_page(f->done, at);
	if (!*own) {
		from = template_page(f, at);
		/* The template does not have the page: it is zero, unless RAM has it. */
		if (from)
			return from;
	}
	if (!memfd_has(f, extent, at))
		return zero_page;
	*own = true;
	return f->ram + at;
}

bool fill_differs(const struct fill *f, const uint8_t *page, uint64_t at)
{
	const uint8_t *from = template_page(f, at);

	return memcmp(page, from ? from : zero_page, PAGE) != 0;
}

static void descriptors_close(struct fill *f)
{
	for (uint32_t i = 0; i < CLIENTS; i++)
		client_drop(f, &f->client[i]);
	if (f->uffd >= 0)
		close(f->uffd);
	f->uffd = -1;
}

void fill_stop(struct fill *f)
{
	fill_rest(f);
	pthread_mutex_lock(&f->lock);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (f->client[i].uffd >= 0 && f->client[i].base)
			uffd_unregister(f, f->client[i].uffd, f->client[i].base);
	if (f->uffd >= 0)
		uffd_unregister(f, f->uffd, (uintptr_t)f->ram);
	descriptors_close(f);
	set_bits(f->done, 0, f->size);
	pthread_mutex_unlock(&f->lock);
}

void fill_free(struct fill *f)
{
	fill_rest(f);
	descriptors_close(f);
	while (f->layers)
		layer_free(f, &f->layer[--f->layers]);
	free(f->layer);
	free(f->done);
	if (f->stop_fd >= 0)
		close(f->stop_fd);
	if (f->epoll_fd >= 0)
		close(f->epoll_fd);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
