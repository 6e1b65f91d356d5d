/* SPDX-License-Identifier: Apache-2.0 */
/* Address ranges and memory windows: devices register them, vcpu.c looks them up. */
#ifndef VMM_NATIVE_BUS_H
#define VMM_NATIVE_BUS_H

#include "base/native.h"

/* Handle an access of len bytes at an offset into a range. True: done; false: Python handles the exit. */
typedef bool (*bus_fn)(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write);

int bus_add(struct bus *bus, int space, uint64_t base, uint64_t size, bus_fn fn, void *ctx);

/*
 * A window: guest memory in which a device maps files, whose pages can vanish when a file is truncated. memory: its
 * address in this process; NULL: emulated reads return zeros, and emulated writes do nothing.
 */
struct bus_window {
	uint64_t base, size;
	void *device, *memory;
	uint32_t (*fault)(void *device);             /* replace vanished pages with memory; returns their number */
	uint64_t (*generation)(const void *device);  /* a number that grows with each change of the mappings */
};

/* 0; -ENOSPC: too many windows. */
int bus_add_window(struct bus *bus, const struct bus_window *window);

/* For vcpu.c: a number that grows with each change of a window on the bus. */
uint64_t bus_window_generation(struct bus *bus);
/*
 * Handle a failed KVM_RUN: a page of the guest does not exist. True: run again, since vanished pages were replaced, or
 * a window has changed since `generation`.
 */
bool bus_window_fault(struct bus *bus, uint64_t generation);
/*
 * If KVM emulates the instruction that touches such a page, the exit is an MMIO access. True: the address is in a
 * window, and the access was made there.
 */
bool bus_window_mmio(struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len, bool write);

#endif
