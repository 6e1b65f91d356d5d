/* SPDX-License-Identifier: Apache-2.0 */
/* Ring functions for devices in C, in addition to those in vmm_native.h. */
#ifndef VMM_NATIVE_RING_H
#define VMM_NATIVE_RING_H

#include "base/native.h"

/*
 * Publish the pushes so far without an interrupt: a guest that polls sees them immediately. ring_flush() later decides
 * about the interrupt for all pushes since its last decision.
 */
void ring_publish(struct ring *ring);

/* Whether a chain is available. A single load, so that a worker can spin on it. */
bool ring_pending(struct ring *ring);

/*
 * Latch err and a description, as for an error of the ring. A device uses it for a chain that it cannot answer, for
 * example one without room for a status. Returns the latched error, which may be an earlier one.
 */
int ring_fail(struct ring *ring, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * Undo the last ring_pop(): the next one returns this head again. Undo several pops in reverse order, and only while no
 * chain popped after them was pushed. -EINVAL: this head is not the last one.
 */
int ring_unpop(struct ring *ring, uint32_t head);

uint32_t ring_size(const struct ring *ring);

/* The number of heads that were popped but not pushed. */
uint32_t ring_in_flight(const struct ring *ring);

#endif
