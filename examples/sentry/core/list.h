/* SPDX-License-Identifier: Apache-2.0 */
/* Doubly linked lists through a member of each entry, and counts of references that cannot wrap. */
#ifndef SENTRY_LIST_H
#define SENTRY_LIST_H

#include "types.h"

#define CONTAINER(pointer, type, member) ((type *)((u8 *)(pointer) - __builtin_offsetof(type, member)))

struct list {
	struct list *next, *previous;
};

#define LIST_EACH(at, head) for (struct list *at = (head)->next; at != (head); at = at->next)
/* The entry that `at` leads to may leave the list meanwhile. */
#define LIST_EACH_SAFE(at, after, head) \
	for (struct list *at = (head)->next, *after = at->next; at != (head); at = after, after = at->next)

static inline void list_init(struct list *list)
{
	list->next = list->previous = list;
}

static inline bool list_empty(const struct list *list)
{
	return list->next == list;
}

/* Insert before a place; before the head it is the last one. */
static inline void list_add(struct list *place, struct list *entry)
{
	entry->next = place;
	entry->previous = place->previous;
	place->previous->next = entry;
	place->previous = entry;
}

/* May be called again for an entry that is in no list. */
static inline void list_remove(struct list *entry)
{
	entry->next->previous = entry->previous;
	entry->previous->next = entry->next;
	list_init(entry);
}

/* A count that has reached this value stays there: the object is never freed. */
#define REFERENCES_SATURATED 0x80000000u

static inline void reference_get(u32 *count)
{
	if (*count < REFERENCES_SATURATED)
		++*count;
}

/* Whether that was the last one. */
static inline bool reference_put(u32 *count)
{
	return *count < REFERENCES_SATURATED && *count && !--*count;
}

#endif
