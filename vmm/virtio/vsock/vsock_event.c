// SPDX-License-Identifier: Apache-2.0
/*
 * The event queue (5.10.6.7): after a restore, the driver hears that its connections are gone before it gets any packet.
 *
 * Linux handles events and packets in two work items, in any order. When it handles the event, it ends every connection that it
 * knows, without a RST: one that was made just before would end in the guest alone. So no packet is sent until the driver
 * has posted the event's buffer again, which Linux does once it has handled the event.
 */
#include "vsock/vsock.h"

/*
 * The number of buffers that the driver has posted, or the latched error. arm: ask for a kick when it posts the next one. All of
 * them are popped and given back, since that is how to count and to ask in both formats of a ring.
 */
static int event_count(struct vsock *v, bool arm)
{
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = v->iov };
	uint32_t head[VSOCK_EVENTS];
	int popped = 0, n = 0;

	do {
		while (n < VSOCK_EVENTS && (popped = ring_pop(v->event, &chain)) > 0)
			head[n++] = chain.head;
	} while (arm && n < VSOCK_EVENTS && popped == 0 && ring_kicks(v->event, 1));
	for (int i = n; i > 0; i--)
		ring_unpop(v->event, head[i - 1]);
	return ring_error(v->event) ? popped : n;
}

int vsock_event_tell(struct vsock *v)
{
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = v->iov };
	const uint32_t transport_reset = 0;
	size_t written;
	int n = v->event ? ring_pop(v->event, &chain) : 0;

	v->reset_event = v->reset_told = false;
	/* A driver that has posted none wants no events, or remembers no connection: it has not begun yet. */
	if (n <= 0)
		return n;
	written = iov_scatter(chain.iov + chain.nread, chain.nwrite, &transport_reset, sizeof(transport_reset));
	/* Before the event is seen: the driver posts its buffer again at any time after that. */
	v->events_left = event_count(v, false);
	if (v->events_left < 0)
		return v->events_left;
	ring_push(v->event, chain.head, (uint32_t)written);
	v->reset_told = true;
	vsock_flush(v, v->event, v->event_irq);
	return 0;
}

int vsock_event_taken(struct vsock *v, bool arm)
{
	int n = event_count(v, arm);

	if (n < 0)
		return n;
	return n > v->events_left;
}
