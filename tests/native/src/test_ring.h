/* SPDX-License-Identifier: Apache-2.0 */
/* What test_ring*.c share: one ring at a time. */
#ifndef TESTS_NATIVE_TEST_RING_H
#define TESTS_NATIVE_TEST_RING_H

#include "guest.h"

extern struct guest g;
extern struct iovec iov[RING_MAX_SEGMENTS];
extern struct chain chain;

void setup(uint32_t size, uint32_t flags);
/* Head 0, so often: offered, popped, pushed. */
void complete(uint32_t n);

/* test_ring_rules.c */
void avail_idx_too_far(void);
void avail_idx_backwards(void);
void head_out_of_range(void);
void next_out_of_range(void);
void descriptor_points_to_itself(void);
void descriptors_in_a_ring(void);
void address_wraps(void);
void buffer_over_the_end_of_ram(void);
void buffer_over_the_hole(void);
void buffer_over_two_regions(void);
void buffer_of_zero_bytes(void);
void readable_behind_writable(void);
void more_buffers_than_room(void);
void indirect_not_negotiated(void);
void indirect_with_next(void);
void indirect_of_a_wrong_size(void);
void indirect_outside_ram(void);
void indirect_inside_indirect(void);
void indirect_next_out_of_range(void);
void indirect_loop(void);
void head_twice_in_flight(void);

#endif
