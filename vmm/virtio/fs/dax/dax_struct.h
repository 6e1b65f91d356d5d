/* SPDX-License-Identifier: Apache-2.0 */
/* The internals of the DAX window: dax.c has its slots, dax_cut.c handles lost pages, dax_thread.c has the thread. */
#ifndef VMM_NATIVE_DAX_STRUCT_H
#define VMM_NATIVE_DAX_STRUCT_H

#include "fs/dax/dax.h"

#include <pthread.h>

enum { SLOT_PAGES = DAX_SLOT / PAGE };

struct slot {
	uint16_t pages; /* how many pages of a file are mapped; 0: none */
	uint16_t whole; /* how many of them are in the window; the others are parked */
	uint16_t had;   /* how many of them the file had when it was mapped, or mapped again */
	bool closed;    /* the place of the parked pages is PROT_NONE; else it is memory */
	bool lost;      /* the other pages are not parked: they do not come back */
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

/* Replace a range by new anonymous memory. 0 or -errno. */
int dax_fill_memory(void *at, size_t len);
/* Drop the parked pages of a slot. */
void dax_forget_cut(struct dax *dax, uint32_t i);
/* Park the pages of a slot from this one on, which the file does not have, and make their place PROT_NONE. */
void dax_close(struct dax *dax, uint32_t i, uint32_t page);
/* These take the lock. */
void dax_look_at_cuts(struct dax *dax);
void dax_look_for_shrunk(struct dax *dax);

#endif
