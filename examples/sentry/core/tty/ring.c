// SPDX-License-Identifier: Apache-2.0
/* Bytes that wait to be read, in a buffer of fixed size. */
#include "tty.h"

u64 ring_put(struct ring *ring, const void *data, u64 size)
{
	u64 done = 0;

	while (done < size && ring->used < ring->size) {
		u32 at = (ring->first + ring->used) % ring->size, part = ring->size - at;

		if (part > ring->size - ring->used)
			part = ring->size - ring->used;
		if (part > size - done)
			part = (u32)(size - done);
		bytes_copy(ring->data + at, (const u8 *)data + done, part);
		ring->used += part;
		done += part;
	}
	return done;
}

u64 ring_take(struct ring *ring, void *data, u64 size)
{
	u64 done = 0;

	while (done < size && ring->used) {
		u32 part = ring->size - ring->first;

		if (part > ring->used)
			part = ring->used;
		if (part > size - done)
			part = (u32)(size - done);
		bytes_copy((u8 *)data + done, ring->data + ring->first, part);
		ring->first = (ring->first + part) % ring->size;
		ring->used -= part;
		done += part;
	}
	return done;
}
