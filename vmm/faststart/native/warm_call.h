/* SPDX-License-Identifier: Apache-2.0 */
/* What a C library would have, for pyvmm-warm, which has none. */
#ifndef VMM_WARM_CALL_H
#define VMM_WARM_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define CALL3(number, a, b, c) system_call(number, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(number, a, b, c, d) system_call(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static inline long pages_map(uint64_t start, uint64_t size, int prot, int flags, int fd, uint64_t offset)
{
	return system_call(SYS_mmap, (long)start, (long)size, prot, flags, fd, (long)offset);
}

static inline size_t text_length(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

static inline bool text_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Whether the first *n* bytes of *path*, the last of them a slash, are where *other* is, too. */
static inline bool text_same_start(const char *other, const char *path, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (other[i] != path[i])
			return false;
	for (other += n; *other && *other != '/'; other++)
		;
	return !*other;
}

/* What follows *prefix* in *text*, or NULL. */
static inline char *text_after(char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return NULL;
	return text;
}

static inline char *environment_value(char **envp, const char *name_and_equals)
{
	for (; *envp; envp++) {
		char *value = text_after(*envp, name_and_equals);

		if (value)
			return value;
	}
	return NULL;
}

#endif
