/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of a ring for devices in C, beyond those of vmm_native.h. */
#ifndef VMM_NATIVE_RING_H
#define VMM_NATIVE_RING_H

#include "base/native.h"

/*
 * Publish the pushes so far without an interrupt: a guest that polls sees them at once. ring_flush() decides about the
 * interrupt later, for all pushes since its last decision.
 */
void ring_publish(struct ring *ring);

/* Whether there is a chain to pop. One load, so that a worker can spin on it. */
bool ring_pending(struct ring *ring);

/*
 * Latch err and a sentence, as if the ring had an error: the device got a chain that it cannot answer at all (for example
 * without room for a status). Returns the latched error, which may be an earlier one.
 */
int ring_fail(struct ring *ring, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * Undo the last ring_pop(): the next one returns this head again. Several are undone in the opposite order of their popping,
 * and only if no chain popped after them was pushed. -EINVAL: this head is not the last one.
 */
int ring_unpop(struct ring *ring, uint32_t head);

uint32_t ring_size(const struct ring *ring);

/* The number of heads that were popped and not pushed. */
uint32_t ring_in_flight(const struct ring *ring);

#endif
