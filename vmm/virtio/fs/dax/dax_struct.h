/* SPDX-License-Identifier: Apache-2.0 */
/* The DAX window from inside: dax.c has its slots, dax_cut.c what files have lost, dax_thread.c the thread. */
#ifndef VMM_NATIVE_DAX_STRUCT_H
#define VMM_NATIVE_DAX_STRUCT_H

#include "fs/dax/dax.h"

#include <pthread.h>

enum { SLOT_PAGES = DAX_SLOT / PAGE };

struct slot {
	uint16_t pages; /* of a file; 0: nothing is mapped */
	uint16_t whole; /* of those, how many are in the window; the others are parked */
	uint16_t had;   /* how many of them the file had when it was mapped, or came back */
	bool closed;    /* nobody can touch the others' place; else it is memory */
	bool lost;      /* not parked, but gone: cut for good */
};

struct dax {
	uint64_t size;
	uint8_t *reserved, *window, *park;
	size_t reserved_size;
	pthread_mutex_t lock;
	uint64_t generation; /* atomic */
	uint32_t nslots, ncut; /* ncut: slots with memory in place of a file */
	struct dax_stats stats;
	int sock, wake_fd, event_fd;
	int forbidden; /* as of worker.forbidden */
	bool stop, started;
	pthread_t thread;
	struct slot slot[];
};

static inline void dax_changed(struct dax *dax)
{
	__atomic_fetch_add(&dax->generation, 1, __ATOMIC_RELEASE);
}

static inline uint8_t *dax_in_window(const struct dax *dax, uint32_t i, uint32_t page)
{
	return dax->window + (size_t)i * DAX_SLOT + (size_t)page * PAGE;
}

static inline uint8_t *dax_in_park(const struct dax *dax, uint32_t i, uint32_t page)
{
	return dax->park + (size_t)i * DAX_SLOT + (size_t)page * PAGE;
}

/* dax_cut.c; with the lock held. */

/* Replace a range by fresh memory. 0 or -errno. */
int dax_fill_memory(void *at, size_t len);
/* Nothing of a slot is cut any more. */
void dax_forget_cut(struct dax *dax, uint32_t i);
/* From that page on nobody can touch what the file does not have. */
void dax_close(struct dax *dax, uint32_t i, uint32_t page);
/* These take the lock. */
void dax_look_at_cuts(struct dax *dax);
void dax_look_for_shrunk(struct dax *dax);

#endif
