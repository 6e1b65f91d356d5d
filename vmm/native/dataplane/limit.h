/* SPDX-License-Identifier: Apache-2.0 */
/* Limits, as the workers use them. */
#ifndef VMM_NATIVE_LIMIT_H
#define VMM_NATIVE_LIMIT_H

#include "base/native.h"

/* One direction of one queue in front of a limit that it may share with others. */
struct limit_gate {
	struct limit *limit; /* NULL: always open */
	int timer_fd;        /* never read: edge-triggered. -1: not made yet */
	bool closed;         /* until whoever woke up opens it: the timer will */
};

void limit_gate_init(struct limit_gate *gate, struct limit *limit);
void limit_gate_deinit(struct limit_gate *gate);
/* Make the timer, and let a worker's epoll tell of it as `source`. -errno; nothing to do without a limit. */
int limit_gate_watch(struct limit_gate *gate, int epoll_fd, uint64_t source);
/* May the next request be done now? If not, the timer is set for when it may. */
bool limit_gate_open(struct limit_gate *gate);
/* A request of so many bytes was done. */
void limit_gate_charge(struct limit_gate *gate, uint64_t bytes);

#endif
