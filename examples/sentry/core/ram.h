/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of RAM. */
#ifndef SENTRY_RAM_H
#define SENTRY_RAM_H

#include "abi.h"
#include "platform.h"

enum { ORDERS = 11, SPARES = 32 }; /* blocks of 1 to 1,024 pages; free pages that are in no block */
enum { RELEASE_ORDER = 4 }; /* the smallest blocks that return to the host */

/* The state of a page of RAM. */
struct page {
	u32 next, before; /* of a free block: neighbours in their list */
	u32 users; /* of a page in use: how many mappings and files have it */
	u8 account, order;
	bool used; /* at some time: no longer zeros */
	u8 kind : 4;
	u8 held : 4; /* of a free block: the host has memory for it (release.c) */
};

/* Who has how many pages: the tasks that allocate them, and what is allocated for them in the core. */
struct account {
	bool taken;
	u64 pages, most, limit; /* limit 0: RAM alone limits it */
	u64 failures;		/* allocations for which the limit left no room */
};

enum { ACCOUNTS = 65 }; /* of the sandbox, and of each container */

struct page_list {
	u32 first, last;
};

struct ram {
	u8 *base;
	struct page *pages; /* one for each page; in RAM that no program ever sees */
	u64 count, available;
	struct page_list free[ORDERS];
	u32 spares[SPARES], spare_count;
	struct account accounts[ACCOUNTS]; /* the first is the sandbox's */
	bool dirty; /* it may contain something else than zeros at the start */
	bool (*reclaim)(void); /* free cached pages; false: there are none. NULL: there is no cache */
};

int ram_init(const struct core_config *config);
void ram_touch(u64 count); /* so many free pages, those that are allocated first */

void *page_alloc(void); /* zeros, with one user; NULL: no RAM is left */
void *page_buffer(void); /* the same with whatever was there before, for what is read only as far as it was written */
void page_free(void *page);

/* By offset in RAM, which is never 0: that stands for none. */
u64 pages_alloc(u32 order);	 /* 2^order pages one behind the other, with one user, and whatever was there before */
void page_clear(u64 offset);	 /* after pages_alloc(): make one page zeros, unless it is fresh */
void page_get(u64 offset);	 /* one more user */
void page_put(u64 offset);	 /* one less; the last frees the page or the block */

/* -- accounts -- */

u8 account_new(void); /* 0: all are taken */
void account_end(u8 number); /* its pages become the sandbox's */
bool account_fits(u8 number, u64 pages); /* after cached pages have been freed, if necessary */

/* A free block, which nobody can allocate meanwhile; it comes back without memory of the host. */
void block_take(u32 at);
void block_put_back(u32 at);

/* -- release.c -- */

void release_init(void);
void release_later(void);	    /* a block of at least RELEASE_ORDER has become free */
bool release_wait(void);	    /* for blocks of a report that is under way; false: there is none */

static inline u64 page_down(u64 address)
{
	return address & -(u64)PAGE;
}

/* 0 behind the last page. */
static inline u64 page_up(u64 address)
{
	return page_down(address + PAGE - 1);
}

void bytes_copy(void *to, const void *from, u64 size);
void bytes_zero(void *at, u64 size);
void bytes_fill(void *at, u8 byte, u64 size);
bool bytes_equal(const void *a, const void *b, u64 size);
bool strings_equal(const char *a, const char *b);
u64 string_size(const char *text); /* without the zero */

#endif
