// SPDX-License-Identifier: Apache-2.0
/* Pages of RAM in blocks of powers of two, and what a freestanding program has no libc for. */
#include "core.h"

enum { PAGE_USED, PAGE_FREE, HELD = 1 };
typedef u64 __attribute__((aligned(1), may_alias)) unaligned_u64;

/* A sanitizer sees what the compiler's own functions touch, but not what an instruction does. */
void bytes_copy(void *to, const void *from, u64 size)
{
#ifdef __SANITIZE_ADDRESS__
	if (size) /* NULL stands for nothing */
		__builtin_memcpy(to, from, size);
#else
	u64 words = size / sizeof(u64), rest = size % sizeof(u64);

	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
#endif
}

void bytes_fill(void *at, u8 byte, u64 size)
{
#ifdef __SANITIZE_ADDRESS__
	__builtin_memset(at, byte, size);
#else
	const u64 word = byte * 0x0101010101010101ull;
	u64 words = size / sizeof(word), rest = size % sizeof(word);

	asm volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(word) : "memory");
	asm volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(word) : "memory");
#endif
}

void bytes_zero(void *at, u64 size)
{
	bytes_fill(at, 0, size);
}

bool bytes_equal(const void *a, const void *b, u64 size)
{
	const u8 *first = a, *second = b;

	for (; size >= sizeof(u64); first += sizeof(u64), second += sizeof(u64), size -= sizeof(u64))
		if (*(const unaligned_u64 *)first != *(const unaligned_u64 *)second)
			return false;
	for (u64 i = 0; i < size; i++)
		if (first[i] != second[i])
			return false;
	return true;
}

bool strings_equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

u64 string_size(const char *text)
{
	u64 size = 0;

	while (text[size])
		size++;
	return size;
}

/* -- lists of pages; page 0 is in none -- */

static void place_add(struct page_list *list, u32 at, bool in_front)
{
	struct page *pages = core.ram.pages;

	pages[at].next = in_front ? list->first : 0;
	pages[at].before = in_front ? 0 : list->last;
	*(pages[at].next ? &pages[pages[at].next].before : &list->last) = at;
	*(pages[at].before ? &pages[pages[at].before].next : &list->first) = at;
}

static void place_remove(struct page_list *list, u32 at)
{
	struct page *pages = core.ram.pages;

	*(pages[at].next ? &pages[pages[at].next].before : &list->last) = pages[at].before;
	*(pages[at].before ? &pages[pages[at].before].next : &list->first) = pages[at].next;
}

/* -- blocks -- */

static void block_add(u32 at, u32 order, u8 held, bool in_front)
{
	core.ram.pages[at].kind = PAGE_FREE;
	core.ram.pages[at].order = (u8)order;
	core.ram.pages[at].held = held;
	place_add(&core.ram.free[order], at, in_front);
}

void block_put_back(u32 at)
{
	block_add(at, core.ram.pages[at].order, 0, false);
}

void block_take(u32 at)
{
	place_remove(&core.ram.free[core.ram.pages[at].order], at);
	core.ram.pages[at].kind = PAGE_USED;
}

int ram_init(const struct core_config *config)
{
	struct ram *ram = &core.ram;
	u64 count = config->ram_size / PAGE, first = (config->ram_reserved + PAGE - 1) / PAGE;
	u64 own = (count * sizeof(*ram->pages) + PAGE - 1) / PAGE, at;

	if (count > 0xffffffffull || first > count || own + 16 > count - first)
		return -EINVAL;
	*ram = (struct ram){ .base = config->ram, .count = count, .dirty = config->ram_dirty };
	ram->pages = (struct page *)(ram->base + first * PAGE);
	if (ram->dirty)
		bytes_zero(ram->pages, count * sizeof(*ram->pages));
	for (at = first + own; at < count;) {
		u32 order = 0;

		while (order + 1 < ORDERS && !(at & ((2ull << order) - 1)) && (2ull << order) <= count - at)
			order++;
		block_add((u32)at, order, 0, false);
		at += 1ull << order;
	}
	ram->available = count - first - own;
	return 0;
}

void ram_touch(u64 count)
{
	for (u32 order = 0; order < ORDERS; order++)
		for (u32 at = core.ram.free[order].first; at; at = core.ram.pages[at].next)
			for (u32 i = 0; i < 1u << order; i++) {
				volatile u8 *byte = page_at((u64)(at + i) * PAGE);

				*byte = *byte; /* the host provides memory for a write */
				if (!--count)
					return;
			}
}

static void block_free(u32 at, u32 order);

/* Single pages that were used last are used again first, without a merge. They become blocks here; false: none did. */
static bool free_spares(void)
{
	struct ram *ram = &core.ram;
	const bool any = ram->spare_count;

	while (ram->spare_count) {
		ram->available--;
		block_free(ram->spares[--ram->spare_count], 0);
	}
	return any;
}

/* -- accounts -- */

u8 account_new(void)
{
	for (u8 i = 1; i < ACCOUNTS; i++)
		if (!core.ram.accounts[i].taken) {
			core.ram.accounts[i] = (struct account){ .taken = true };
			return i;
		}
	return 0;
}

/* Caches, and files in memory that others use, outlive a container. */
void account_end(u8 number)
{
	struct ram *ram = &core.ram;

	for (u64 i = 0; ram->accounts[number].pages && i < ram->count; i++) {
		if (ram->pages[i].account != number)
			continue;
		ram->pages[i].account = 0;
		ram->accounts[0].pages += 1ull << ram->pages[i].order;
		ram->accounts[number].pages -= 1ull << ram->pages[i].order;
	}
	ram->accounts[number].taken = false;
}

bool account_fits(u8 number, u64 pages)
{
	const struct account *account = &core.ram.accounts[number];

	while (account->limit && account->pages + pages > account->limit)
		if (!core.ram.reclaim || !core.ram.reclaim())
			return false;
	return true;
}

/* The current task's. */
static u8 account_now(void)
{
	return core.current ? core.current->process->account : 0;
}

/* Of the first page of a block. */
static void charge(u32 at, u8 number)
{
	struct account *account = &core.ram.accounts[number];

	account->pages += 1ull << core.ram.pages[at].order;
	if (account->pages > account->most)
		account->most = account->pages;
	core.ram.pages[at].account = number;
}

static void uncharge(u32 at)
{
	core.ram.accounts[core.ram.pages[at].account].pages -= 1ull << core.ram.pages[at].order;
	core.ram.pages[at].account = 0;
}

static u64 spare_take(u8 account)
{
	const u32 at = core.ram.spares[--core.ram.spare_count];

	core.ram.pages[at].users = 1;
	core.ram.available--;
	charge(at, account);
	return (u64)at * PAGE;
}

u64 pages_alloc(u32 order)
{
	struct ram *ram = &core.ram;
	const u8 account = account_now();
	u32 from, at;

	if (!account_fits(account, 1ull << order)) {
		ram->accounts[account].failures++;
		return 0;
	}
	if (!order && ram->spare_count)
		return spare_take(account);
	do
		for (from = order; from < ORDERS && !ram->free[from].first;)
			from++;
	while (from >= ORDERS && (free_spares() || release_wait() || (ram->reclaim && ram->reclaim())));
	if (from >= ORDERS)
		return 0;
	at = ram->free[from].first;
	block_take(at);
	while (from > order) { /* the lower half is used first: one mapping shows many pages */
		from--;
		block_add(at + (1u << from), from, ram->pages[at].held, true);
	}
	ram->pages[at].order = (u8)order;
	ram->pages[at].users = 1;
	ram->available -= 1ull << order;
	charge(at, account);
	return (u64)at * PAGE;
}

/* What was never touched needs no memory of the host for that. */
void page_clear(u64 offset)
{
	if (core.ram.pages[offset / PAGE].used || core.ram.dirty)
		bytes_zero(page_at(offset), PAGE);
}

void *page_alloc(void)
{
	u64 offset = pages_alloc(0);

	if (!offset)
		return NULL;
	page_clear(offset);
	return page_at(offset);
}

void *page_buffer(void)
{
	u64 offset = pages_alloc(0);

	return offset ? page_at(offset) : NULL;
}

static void block_free(u32 at, u32 order)
{
	struct page *pages = core.ram.pages;

	for (u32 i = 0; i < 1u << order; i++)
		pages[at + i].used = true;
	core.ram.available += 1ull << order;
	for (; order + 1 < ORDERS; order++) {
		u32 other = at ^ 1u << order;

		if (other >= core.ram.count || pages[other].kind != PAGE_FREE || pages[other].order != order)
			break;
		block_take(other);
		at &= ~(1u << order);
	}
	/* Large blocks are used again first, since the host has memory for them. */
	block_add(at, order, HELD, order >= RELEASE_ORDER);
	if (order >= RELEASE_ORDER)
		release_later();
}

void page_get(u64 offset)
{
	reference_get(&core.ram.pages[offset / PAGE].users);
}

void page_put(u64 offset)
{
	struct page *page = &core.ram.pages[offset / PAGE];

	if (!reference_put(&page->users))
		return;
	uncharge((u32)(offset / PAGE));
	if (page->order || core.ram.spare_count == SPARES) {
		block_free((u32)(offset / PAGE), page->order);
		return;
	}
	page->used = true;
	core.ram.available++;
	core.ram.spares[core.ram.spare_count++] = (u32)(offset / PAGE);
}

bool page_is_shared(u64 offset)
{
	return core.ram.pages[offset / PAGE].users > 1;
}

void page_free(void *page)
{
	if (page)
		page_put(page_offset(page));
}
