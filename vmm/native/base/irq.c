// SPDX-License-Identifier: Apache-2.0
/* An interrupt: a bit for the driver to read, and an eventfd that KVM turns into an injection. */
#include <sys/eventfd.h>

#include "base/native.h"

void irq_raise(struct irq *irq, uint32_t bits)
{
	/*
	 * The bit must be visible before the interrupt is: the driver's handler reads it first. The write() behind
	 * eventfd_write orders nothing by itself, the release does.
	 */
	if (irq->status)
		__atomic_fetch_or(irq->status, bits, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&irq->raised, 1, __ATOMIC_RELAXED);
	/* Fails only when the counter would overflow, and then an interrupt is pending anyway. */
	(void)!eventfd_write(irq->fd, 1);
}

void irq_ack(struct irq *irq, uint32_t bits)
{
	if (irq->status)
		__atomic_fetch_and(irq->status, ~bits, __ATOMIC_SEQ_CST);
}
