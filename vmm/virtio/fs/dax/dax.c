// SPDX-License-Identifier: Apache-2.0
/*
 * The DAX window (virtio 1.2, 5.11.6.4): a range of this process's addresses that is guest physical memory, and in which
 * pieces of files are mapped.
 *
 * The guest can access the whole window at any time, so all of it is always mapped: anonymous memory, or a file. If it had a
 * hole, another mapping of this process could be placed there, and the guest could access it. So a file is first mapped
 * elsewhere, which may fail, and then moved over the old mapping, which the kernel does in one step.
 *
 * dax_cut.c handles pages that a file has lost.
 */
#include "fs/dax/dax_struct.h"
#include "vcpu/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int slot_clear(struct dax *dax, uint32_t i)
{
	int err;

	if (!dax->slot[i].pages)
		return 0;
	err = dax_fill_memory(dax_in_window(dax, i, 0), DAX_SLOT);
	if (err)
		return err;
	dax_forget_cut(dax, i);
	dax->slot[i] = (struct slot){ 0 };
	dax->stats.slots--;
	return 0;
}

/* How many of the pages of a slot the file has. */
static uint16_t pages_there(uint64_t pages, uint64_t from, uint64_t end)
{
	uint64_t there = end > from ? (end - from + PAGE - 1) / PAGE : 0;

	return (uint16_t)(there < pages ? there : pages);
}

static int slot_map(struct dax *dax, uint32_t i, size_t len, int fd, uint64_t from, uint64_t end, bool writable)
{
	int flags = writable ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE, err;
	uint8_t *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, (off_t)from);
	if (p == MAP_FAILED)
		return -errno;
	err = slot_clear(dax, i);
	if (!err && mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, dax_in_window(dax, i, 0)) == MAP_FAILED) {
		err = -errno;
		/* The kernel may have left a hole. If it cannot be filled, end the process. */
		if (dax_fill_memory(dax_in_window(dax, i, 0), DAX_SLOT))
			abort();
	}
	if (err) {
		munmap(p, len);
		return err;
	}
	dax->slot[i].pages = dax->slot[i].whole = (uint16_t)(len / PAGE);
	dax->slot[i].had = pages_there(len / PAGE, from, end);
	if (dax->slot[i].had < dax->slot[i].pages)
		dax_close(dax, i, dax->slot[i].had);
	if (dax->stats.slots++ == 0)
		eventfd_write(dax->wake_fd, 1); /* the thread begins to look for truncated files */
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
	dax_changed(dax);
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
	dax_changed(dax);
	dax->stats.unmaps += !err;
	pthread_mutex_unlock(&dax->lock);
	return err;
}

void dax_clear(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots; i++)
		slot_clear(dax, i);
	dax_changed(dax);
	pthread_mutex_unlock(&dax->lock);
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
	dax->sock = dax->event_fd = dax->forbidden = -1;
	pthread_mutex_init(&dax->lock, NULL);
	/* The window in the first half; the second half is for parked mappings (dax_cut.c). */
	dax->reserved_size = 2 * size + DAX_SLOT;
	dax->reserved = mmap(NULL, dax->reserved_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	dax->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dax->reserved == MAP_FAILED || dax->wake_fd < 0)
		goto fail;
	dax->window = dax->reserved + (-(uintptr_t)dax->reserved & (DAX_SLOT - 1));
	dax->park = dax->window + size;
	*err = dax_fill_memory(dax->window, size);
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
	if (dax->started)
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

static uint64_t dax_generation(const void *window)
{
	const struct dax *dax = window;

	return __atomic_load_n(&dax->generation, __ATOMIC_ACQUIRE);
}

int bus_add_dax(struct bus *bus, struct dax *dax, uint64_t base, uint64_t size)
{
	return bus_add_window(bus, &(struct bus_window){ base, size, dax, dax->window, dax_fault, dax_generation });
}
