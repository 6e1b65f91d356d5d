// SPDX-License-Identifier: Apache-2.0
/* PCI reads without side effects: configuration space behind ECAM, and the common configuration of virtio-pci. */
#include <errno.h>
#include <string.h>

#include "vcpu/bus.h"

/* Each device number has eight functions of 4096 bytes; our devices use only the first. */
enum { SLOT_SHIFT = 15, SLOTS = 32, SPACE = 4096, COMMON = 0x100 };

static void page_read(const uint8_t *page, uint64_t offset, uint8_t *data, uint32_t len)
{
	uint32_t word;

	/* A single load, so that the guest never sees a half-written register. */
	if (len == 4 && !(offset & 3)) {
		word = __atomic_load_n((const uint32_t *)(const void *)(page + offset), __ATOMIC_ACQUIRE);
		memcpy(data, &word, 4);
	} else {
		memcpy(data, page + offset, len);
	}
}

static bool ecam_access(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write)
{
	const struct ecam *ecam = ctx;
	uint64_t slot = offset >> SLOT_SHIFT, at = offset & ((1 << SLOT_SHIFT) - 1);
	const uint8_t *page = __atomic_load_n(&ecam->page[slot], __ATOMIC_ACQUIRE);
	uint32_t trap = ecam->trap[slot];

	if (!page || at >= SPACE || len > SPACE - at) {
		if (!write)
			memset(data, 0xff, len);
		return true;
	}
	if (write || (trap && at < trap + 4 && trap < at + len))
		return false;
	page_read(page, at, data, len);
	return true;
}

int bus_add_ecam(struct bus *bus, uint64_t base, struct ecam *ecam)
{
	return bus_add(bus, BUS_MMIO, base, (uint64_t)SLOTS << SLOT_SHIFT, ecam_access, ecam);
}

static bool bar_access(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write)
{
	if (write || offset >= COMMON || len > COMMON - offset)
		return false;
	page_read(ctx, offset, data, len);
	return true;
}

int bus_add_bar(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page)
{
	if (size < COMMON || ((uintptr_t)page & 7))
		return -EINVAL;
	return bus_add(bus, BUS_MMIO, base, size, bar_access, page);
}
