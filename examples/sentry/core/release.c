// SPDX-License-Identifier: Apache-2.0
/*
 * Free memory returns to the host: large blocks that were not used again for a while, by the platform or by a balloon.
 *
 * Nothing runs while no memory becomes free.  A block that was freed is aged by one tick, and returns at the next.
 */
#include "core.h"
#include "virtio/virtio.h"

enum { INTERVAL = 250000000, AGED = 2 };

static struct timer timer;

/* Pages that the host has taken read as zeros. */
static bool release_block(u32 at, u32 order)
{
	struct page *pages = core.ram.pages;

	if (!core.ops->release)
		return balloon_report(at);
	if (!core.ops->release((u64)at * PAGE, (u64)PAGE << order))
		return false;
	pages[at].held = 0;
	for (u32 i = 0; i < 1u << order; i++)
		pages[at + i].used = false;
	return true;
}

static void tick(struct timer *unused)
{
	struct page *pages = core.ram.pages;
	bool again = false;

	(void)unused;
	for (u32 order = RELEASE_ORDER; order < ORDERS; order++)
		for (u32 at = core.ram.free[order].first, next; at; at = next) {
			next = pages[at].next;
			if (!pages[at].held)
				continue;
			if (pages[at].held < AGED)
				pages[at].held = AGED;
			else if (release_block(at, order))
				continue;
			again = true;
		}
	balloon_send();
	if (again)
		release_later();
}

void release_later(void)
{
	if (!timer.active && (core.ops->release || balloon_is_there()))
		timer_start(&timer, monotonic_now() + INTERVAL);
}

bool release_wait(void)
{
	return balloon_wait();
}

void release_init(void)
{
	timer = (struct timer){ .expire = tick };
}
