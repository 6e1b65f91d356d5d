/* SPDX-License-Identifier: Apache-2.0 */
/* What the C devices use of a ring beyond vmm_native.h. */
#ifndef VMM_NATIVE_RING_H
#define VMM_NATIVE_RING_H

#include "base/native.h"

/*
 * Let the guest see the pushes so far without deciding about an interrupt: a guest that is looking anyway picks them
 * up. ring_flush() decides later, for everything since the last decision.
 */
void ring_publish(struct ring *ring);

/* Is there a chain to pop? One load: cheap enough to spin on. */
bool ring_pending(struct ring *ring);

/*
 * A device found a chain that it cannot answer at all (no room for a status, say): latch err with a sentence, as if
 * the ring itself were broken. Returns the latched error, which may be an earlier one.
 */
int ring_fail(struct ring *ring, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * The guest gets the head back that was popped last, as if it had not been popped: the next ring_pop() returns it again.
 * Several are taken back in the opposite order of their popping; nothing popped behind them may have been pushed. -EINVAL:
 * not the last one.
 */
int ring_unpop(struct ring *ring, uint32_t head);

uint32_t ring_size(const struct ring *ring);

/* Heads that were popped and not yet pushed. */
uint32_t ring_in_flight(const struct ring *ring);

#endif
