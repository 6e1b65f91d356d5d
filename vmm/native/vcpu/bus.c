// SPDX-License-Identifier: Apache-2.0
/*
 * The address ranges in which exits are looked up. A C function or Python handles each range. All other addresses read
 * as all ones, as on hardware, without involving Python.
 */
#include "vcpu/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUS_MAX = 64, BUS_WINDOWS = 8, REG_STATUS = 0x60, REG_ACK = 0x64 };

struct range {
	uint64_t base, size;
	bus_fn fn; /* NULL: Python */
	void *ctx;
};

struct bus {
	/*
	 * Devices are added and removed while vCPUs run (plug, unplug). An access holds the lock until it is answered.
	 */
	pthread_rwlock_t lock;
	uint32_t n[2];
	struct range range[2][BUS_MAX];
	uint32_t nwindows; /* also read without the lock, so that machines without windows never lock */
	struct bus_window window[BUS_WINDOWS];
};

/*
 * vCPUs are readers. A guest can keep them here nearly all the time: a read of LSR waits while the UART's output is
 * full. So a waiting writer precedes later readers, which requires that no thread locks twice.
 */
static int lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	int error = pthread_rwlockattr_init(&attr);

	if (error)
		return error;
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	error = pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return error;
}

struct bus *bus_new(void)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (bus && lock_init(&bus->lock)) {
		free(bus);
		return NULL;
	}
	return bus;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
}

int bus_add(struct bus *bus, int space, uint64_t base, uint64_t size, bus_fn fn, void *ctx)
{
	int ret = 0;

	if ((space != BUS_PIO && space != BUS_MMIO) || !size || base + size < base)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	for (uint32_t i = 0; i < bus->n[space]; i++) {
		const struct range *r = &bus->range[space][i];

		if (base < r->base + r->size && r->base < base + size)
			ret = -EEXIST;
	}
	if (!ret && bus->n[space] == BUS_MAX)
		ret = -ENOSPC;
	if (!ret)
		bus->range[space][bus->n[space]++] = (struct range){ base, size, fn, ctx };
	pthread_rwlock_unlock(&bus->lock);
	return ret;
}

int bus_remove(struct bus *bus, int space, uint64_t base)
{
	int ret = -ENOENT;

	if (space != BUS_PIO && space != BUS_MMIO)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	for (uint32_t i = 0; i < bus->n[space]; i++) {
		if (bus->range[space][i].base != base)
			continue;
		bus->range[space][i] = bus->range[space][--bus->n[space]];
		ret = 0;
		break;
	}
	pthread_rwlock_unlock(&bus->lock);
	return ret;
}

int bus_add_python(struct bus *bus, int space, uint64_t base, uint64_t size)
{
	return bus_add(bus, space, base, size, NULL, NULL);
}

/* A callback of struct bus; ctx: the page. */
static bool regpage_access(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write)
{
	uint8_t *page = ctx;
	uint32_t bits;

	if (offset + len > 4096)
		return false;
	if (!write) {
		/* A single load, so that the guest never sees a half-written register. */
		if (len == 4 && !(offset & 3)) {
			bits = __atomic_load_n((uint32_t *)(void *)(page + offset), __ATOMIC_ACQUIRE);
			memcpy(data, &bits, 4);
		} else {
			memcpy(data, page + offset, len);
		}
		return true;
	}
	if (offset == REG_ACK && len == 4) {
		memcpy(&bits, data, 4);
		__atomic_fetch_and((uint32_t *)(void *)(page + REG_STATUS), ~bits | IRQ_VRING, __ATOMIC_SEQ_CST);
		return true;
	}
	return false;
}

int bus_add_regpage(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page)
{
	if (size > 4096 || ((uintptr_t)page & 7))
		return -EINVAL;
	return bus_add(bus, BUS_MMIO, base, size, regpage_access, page);
}

int bus_access(struct bus *bus, int space, uint64_t addr, uint8_t *data, uint32_t len, bool write)
{
	int ret = BUS_UNCLAIMED;

	pthread_rwlock_rdlock(&bus->lock);
	for (uint32_t i = 0; i < bus->n[space]; i++) {
		const struct range *r = &bus->range[space][i];

		if (addr < r->base || addr - r->base >= r->size)
			continue;
		if (len > r->size - (addr - r->base))
			break; /* it extends past the end of the range */
		ret = r->fn && r->fn(r->ctx, addr - r->base, data, len, write) ? BUS_DONE : BUS_TO_PYTHON;
		break;
	}
	pthread_rwlock_unlock(&bus->lock);
	if (ret == BUS_UNCLAIMED && !write)
		memset(data, 0xff, len);
	return ret;
}

int bus_add_window(struct bus *bus, const struct bus_window *window)
{
	int ret = -ENOSPC;

	pthread_rwlock_wrlock(&bus->lock);
	if (bus->nwindows < BUS_WINDOWS) {
		bus->window[bus->nwindows] = *window;
		__atomic_store_n(&bus->nwindows, bus->nwindows + 1, __ATOMIC_RELAXED);
		ret = 0;
	}
	pthread_rwlock_unlock(&bus->lock);
	return ret;
}

void bus_remove_window(struct bus *bus, const void *device)
{
	pthread_rwlock_wrlock(&bus->lock);
	for (uint32_t i = 0; i < bus->nwindows; i++) {
		if (bus->window[i].device != device)
			continue;
		__atomic_store_n(&bus->nwindows, bus->nwindows - 1, __ATOMIC_RELAXED);
		bus->window[i] = bus->window[bus->nwindows];
		break;
	}
	pthread_rwlock_unlock(&bus->lock);
}

/* Lock the windows for reading. False: there are none, and the lock is not held. */
static bool windows_lock(struct bus *bus)
{
	if (!__atomic_load_n(&bus->nwindows, __ATOMIC_RELAXED))
		return false;
	pthread_rwlock_rdlock(&bus->lock);
	return true;
}

void bus_move_window(struct bus *bus, const void *device, uint64_t base)
{
	pthread_rwlock_wrlock(&bus->lock);
	for (uint32_t i = 0; i < bus->nwindows; i++)
		if (bus->window[i].device == device)
			bus->window[i].base = base;
	pthread_rwlock_unlock(&bus->lock);
}

static uint64_t sum_generations(const struct bus *bus)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < bus->nwindows; i++)
		sum += bus->window[i].generation(bus->window[i].device);
	return sum;
}

uint64_t bus_window_generation(struct bus *bus)
{
	uint64_t sum;

	if (!windows_lock(bus))
		return 0;
	sum = sum_generations(bus);
	pthread_rwlock_unlock(&bus->lock);
	return sum;
}

bool bus_window_fault(struct bus *bus, uint64_t generation)
{
	uint32_t n = 0;
	bool changed;

	if (!windows_lock(bus))
		return generation != 0;
	for (uint32_t i = 0; i < bus->nwindows; i++)
		n += bus->window[i].fault(bus->window[i].device);
	changed = n || sum_generations(bus) != generation;
	pthread_rwlock_unlock(&bus->lock);
	return changed;
}

/*
 * Access a window by a system call: if a page has vanished again, the call fails, where a load would raise SIGBUS. A
 * read then returns zeros, and a write does nothing.
 */
static void access_window(const struct bus_window *w, uint64_t at, uint8_t *data, uint32_t len, bool write)
{
	struct iovec ours = { .iov_base = data, .iov_len = len };
	struct iovec there = { .iov_base = w->memory ? (uint8_t *)w->memory + at : NULL, .iov_len = len };

	if (len > w->size - at)
		there.iov_len = w->size - at;
	if (write && w->memory)
		(void)!process_vm_writev(getpid(), &ours, 1, &there, 1, 0);
	else if (!write && (!w->memory || process_vm_readv(getpid(), &ours, 1, &there, 1, 0) != (ssize_t)len))
		memset(data, 0, len);
}

bool bus_window_mmio(struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len, bool write)
{
	bool found = false;

	if (!windows_lock(bus))
		return false;
	for (uint32_t i = 0; i < bus->nwindows && !found; i++) {
		const struct bus_window *w = &bus->window[i];

		if (addr < w->base || addr - w->base >= w->size)
			continue;
		w->fault(w->device);
		access_window(w, addr - w->base, data, len, write);
		found = true;
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}
