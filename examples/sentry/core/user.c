// SPDX-License-Identifier: Apache-2.0
/* Memory of the program: the only way from a number that it gave to bytes. */
#include "core.h"
#include "hooks/hooks.h"

/* The same of what hooks/ has copied before. */
static u64 copy_held(struct mm *mm, u64 address, void *to, u64 size)
{
	u64 rest = 0;
	const u8 *from = held_at(mm, address, &rest);

	if (!from || rest < size)
		return 0;
	bytes_copy(to, from, size);
	return size;
}

static s64 string_held(struct mm *mm, char *to, u64 address, u64 size)
{
	u64 rest = 0;
	const u8 *from = held_at(mm, address, &rest);

	for (u64 i = 0; from && i < size; i++) {
		if (i == rest)
			return -EFAULT;
		to[i] = (char)from[i];
		if (!to[i])
			return (s64)i;
	}
	return from ? -ENAMETOOLONG : -EFAULT;
}

/* Copy as far as `page_of` finds pages; inlined, so that its calls are direct. */
static inline u64 copy_pages(
	struct mm *mm, u64 address, void *mine, u64 size, bool write, void *(*page_of)(struct mm *, u64, bool))
{
	u64 done = 0;

	while (done < size) {
		u64 rest = PAGE - (address + done) % PAGE, part = rest < size - done ? rest : size - done;
		u8 *page = page_of(mm, address + done, write), *at = (u8 *)mine + done;

		if (!page)
			break;
		bytes_copy(write ? page : at, write ? at : page, part);
		done += part;
	}
	return done;
}

/* Copy one way or the other; returns how many bytes were copied. */
static u64 copy(struct mm *mm, u64 address, void *mine, u64 size, bool write)
{
	if (!user_range(address, size))
		return write ? 0 : copy_held(mm, address, mine, size);
	return copy_pages(mm, address, mine, size, write, mm_page);
}

/* As a tracer: it reads what the program may not, and writes what is read-only but the program's own. */
u64 user_copy_traced(struct mm *mm, u64 address, void *mine, u64 size, bool write)
{
	return user_range(address, size) ? copy_pages(mm, address, mine, size, write, mm_page_traced) : 0;
}

int user_read(struct mm *mm, void *to, u64 from, u64 size)
{
	return copy(mm, from, to, size, false) == size ? 0 : -EFAULT;
}

int user_write(struct mm *mm, u64 to, const void *from, u64 size)
{
	return copy(mm, to, (void *)from, size, true) == size ? 0 : -EFAULT;
}

int user_zero(struct mm *mm, u64 to, u64 size)
{
	static const u8 zeros[PAGE];

	for (u64 done = 0; done < size; done += PAGE)
		if (user_write(mm, to + done, zeros, size - done < PAGE ? size - done : PAGE))
			return -EFAULT;
	return 0;
}

u64 user_writable(struct mm *mm, u64 address, u64 size)
{
	u64 done = 0;

	while (done < size && mm_page(mm, address + done, true))
		done += PAGE - (address + done) % PAGE;
	return done < size ? done : size;
}

/* Copy a text with its end; its size without that, -EFAULT, or -ENAMETOOLONG if it is longer than there is room. */
s64 user_string(struct mm *mm, char *to, u64 from, u64 size)
{
	for (u64 done = 0; done < size;) {
		u64 rest = PAGE - (from + done) % PAGE, part = rest < size - done ? rest : size - done;
		const char *page;

		if (!user_range(from, done + 1))
			return string_held(mm, to, from, size);
		page = mm_page(mm, from + done, false);
		if (!page)
			return -EFAULT;
		for (u64 i = 0; i < part; i++, done++) {
			to[done] = ((const volatile char *)page)[i]; /* once: the program can change it */
			if (!to[done])
				return (s64)done;
		}
	}
	return -ENAMETOOLONG;
}
