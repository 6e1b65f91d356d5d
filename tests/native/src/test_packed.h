/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's side of a packed ring, for test_packed*.c: one ring at a time, kept here. */
#ifndef TESTS_NATIVE_TEST_PACKED_H
#define TESTS_NATIVE_TEST_PACKED_H

#include "guest.h"
#include "ring/ring.h"

enum { AVAIL = 0x80, USED = 0x8000, BOTH = AVAIL | USED };
enum { ENABLE = 0, DISABLE = 1, DESC = 2 };

struct packed {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

/* Where the driver's next descriptor goes, and where the device's will be. */
struct driver {
	uint16_t slot, used_slot;
	bool wrap, used_wrap;
};

extern struct driver d;
extern struct guest g;
extern struct iovec iov[RING_MAX_SEGMENTS];
extern struct chain chain;
extern uint32_t *driver_event, *device_event;

void setup(uint32_t size, uint32_t flags);
struct packed *at(uint32_t slot);
/* The next descriptor is available. */
void put(uint64_t addr, uint32_t len, uint16_t id, uint16_t flags);
/* Take what was given back, of so many descriptors; false: nothing was. */
bool taken(uint16_t *id, uint32_t *len, uint32_t descs);
void take(uint16_t want, uint32_t len, uint32_t descs);
/* Buffer 0, so often: put, popped, pushed, taken. */
void complete(uint32_t n);
/* The ring breaks with these words, for good. */
void breaks(int err, const char *words);

/* test_packed_adopt.c */
void adopted_with_chains_under_way(void);
void adopted_in_the_middle(void);
void books_that_cannot_be(void);

/* test_packed_rules.c */
void id_out_of_range(void);
void id_twice_in_flight(void);
void more_than_the_ring_has(void);
void chain_longer_than_the_ring(void);
void next_that_is_not_available(void);
void address_wraps(void);
void buffer_not_in_one_piece_of_ram(void);
void buffer_of_zero_bytes(void);
void readable_behind_writable(void);
void more_buffers_than_room(void);
void indirect_not_negotiated(void);
void indirect_in_a_chain(void);
void indirect_of_a_wrong_size(void);
void indirect_outside_ram(void);
void indirect_inside_indirect(void);
void indirect_with_more_entries_than_any_chain(void);

#endif
