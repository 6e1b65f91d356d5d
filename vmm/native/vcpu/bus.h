/* SPDX-License-Identifier: Apache-2.0 */
/* Address ranges of the buses, and windows of guest memory that are a device's: what devices register, and vcpu.c asks. */
#ifndef VMM_NATIVE_BUS_H
#define VMM_NATIVE_BUS_H

#include "base/native.h"

/*
 * Answer an access of len bytes at offset from the start of a bus range. Returns true when done; false hands the exit
 * to Python.
 */
typedef bool (*bus_fn)(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write);

int bus_add(struct bus *bus, int space, uint64_t base, uint64_t size, bus_fn fn, void *ctx);

/*
 * Guest memory whose pages a device has mapped of a file, and can lose. memory: where we have it; NULL: what KVM emulates
 * reads zeroes, and writes nothing.
 */
struct bus_window {
	uint64_t base, size;
	void *device, *memory;
	uint32_t (*fault)(void *device);             /* put memory where the file has none any more: how many pages */
	uint64_t (*generation)(const void *device);  /* grows with every change of what is mapped */
};

/* -ENOSPC: there are too many. */
int bus_add_window(struct bus *bus, const struct bus_window *window);

/* For vcpu.c. Grows with every change of a window of the bus. */
uint64_t bus_window_generation(struct bus *bus);
/*
 * KVM could not get a page for the guest. true: try again, something was wrong with a window, or is not any more since
 * generation.
 */
bool bus_window_fault(struct bus *bus, uint64_t generation);
/*
 * Where KVM emulates an instruction, a page that cannot be had comes as an access to nothing instead. true: it is in a
 * window, and was done there as far as there is something now.
 */
bool bus_window_mmio(struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len, bool write);

#endif
