// SPDX-License-Identifier: Apache-2.0
/*
 * Guest access: mem_ptr() is the only function that turns a guest address into a pointer. An interrupt is a bit that
 * the driver reads, and an eventfd on which KVM injects it.
 */
#include "base/native.h"

#include <sys/eventfd.h>

void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	for (uint32_t i = 0; i < mem->nregions; i++) {
		const struct mem_region *r = &mem->region[i];

		/* The guest chooses gpa and len: subtract instead of adding, since a sum could overflow. */
		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		if (len > r->size - (gpa - r->gpa))
			return NULL;
		return (void *)(uintptr_t)(r->hva + (gpa - r->gpa));
	}
	return NULL;
}

int mem_run(const uint8_t *bits, uint64_t size, uint64_t *start, uint64_t *end)
{
	uint64_t at = *end;

	while (at < size && !has_page(bits, at))
		at += at / PAGE % 8 == 0 && !bits[at / PAGE / 8] ? 8 * PAGE : PAGE;
	if (at >= size)
		return 0;
	*start = at;
	while (at < size && has_page(bits, at))
		at += PAGE;
	*end = at;
	return 1;
}

void irq_raise(struct irq *irq, uint32_t bits)
{
	/*
	 * The bit must be visible before the interrupt, because the driver's handler reads it first. The write() in
	 * eventfd_write() is not a memory barrier; this atomic operation is one.
	 */
	if (irq->status)
		__atomic_fetch_or(irq->status, bits, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&irq->raised, 1, __ATOMIC_RELAXED);
	/* Fails only if the counter would overflow; an interrupt is pending then anyway. */
	(void)!eventfd_write(irq->fd, 1);
}

void irq_ack(struct irq *irq, uint32_t bits)
{
	if (irq->status)
		__atomic_fetch_and(irq->status, ~bits, __ATOMIC_SEQ_CST);
}
