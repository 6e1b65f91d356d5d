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

int ram_init(struct ram *ram, u8 *base, u64 size)
{
	u64 pages = size / PAGE;
	u64 own = (pages * sizeof(*ram->next) + PAGE - 1) / PAGE;

	if (pages > 0xffffffffull || own + 16 > pages)
		return -EINVAL;
	*ram = (struct ram){ .base = base, .pages = pages, .fresh = own, .next = (u32 *)base };
	return 0;
}

u64 ram_alloc(struct ram *ram)
{
	u32 page = ram->free;

	if (page) {
		ram->free = ram->next[page];
		bytes_zero(ram->base + (u64)page * PAGE, PAGE);
		return (u64)page * PAGE;
	}
	/* Pages that were never used are zeros already, and one behind the other: one mapping shows many. */
	return ram->fresh < ram->pages ? ram->fresh++ * PAGE : 0;
}

void ram_free(struct ram *ram, u64 offset)
{
	ram->next[offset / PAGE] = ram->free;
	ram->free = (u32)(offset / PAGE);
}
