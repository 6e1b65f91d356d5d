// SPDX-License-Identifier: Apache-2.0
/* Pages of RAM, and what a freestanding program has no libc for. */
#include "core.h"

/* A sanitizer sees what the compiler's own functions touch, but not what an instruction does. */
void bytes_copy(void *to, const void *from, u64 size)
{
#ifdef __SANITIZE_ADDRESS__
	__builtin_memcpy(to, from, size);
#else
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
#endif
}

void bytes_zero(void *at, u64 size)
{
#ifdef __SANITIZE_ADDRESS__
	__builtin_memset(at, 0, size);
#else
	asm volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(0) : "memory");
#endif
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

int ram_init(struct ram *ram, const struct core_config *config)
{
	u64 pages = config->ram_size / PAGE, first = (config->ram_reserved + PAGE - 1) / PAGE;
	u64 own = (pages * sizeof(*ram->next) + PAGE - 1) / PAGE;

	if (pages > 0xffffffffull || first > pages || own + 16 > pages - first)
		return -EINVAL;
	*ram = (struct ram){ .base = config->ram, .pages = pages, .fresh = first + own, .dirty = config->ram_dirty };
	ram->next = (u32 *)(ram->base + first * PAGE);
	return 0;
}

u64 ram_alloc(struct ram *ram)
{
	u64 page = ram->free;
	bool fresh = !page;

	if (page)
		ram->free = ram->next[page];
	else if (ram->fresh < ram->pages)
		page = ram->fresh++; /* one behind the other: one mapping shows many */
	if (page && (!fresh || ram->dirty))
		bytes_zero(ram->base + page * PAGE, PAGE);
	return page * PAGE;
}

void ram_free(struct ram *ram, u64 offset, u32 *before)
{
	u32 page = (u32)(offset / PAGE), *place = *before ? &ram->next[*before] : &ram->free;

	ram->next[page] = *place;
	*place = *before = page;
}
