// SPDX-License-Identifier: Apache-2.0
/* Memory that this process shares with those for programs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host.h"

static const char none[] = "no memory for the sandbox";

/* Sealed: a process that writes behind its end does not make it larger. */
int memory_create(const char *name, u64 size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		fail(none);
	return fd;
}

/*
 * Of what a stopped core points to: its next process has the same memory at the same addresses. Other mappings are far above,
 * and the program is far below.
 */
enum { GAP = 1 << 30 };
static PROCESS_LOCAL u64 next_address = 1ull << 40;

static void *map(void *at, u64 size, int prot, int flags, int fd)
{
	void *memory = mmap(at, size, prot, flags | MAP_NORESERVE, fd, 0);

	if (memory == MAP_FAILED)
		fail(none);
	return memory;
}

void *memory_map(int fd, u64 size)
{
	return map(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static void *map_next(u64 size, int prot)
{
	void *memory = map((void *)next_address, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);

	next_address += (size + GAP - 1) / GAP * GAP + GAP;
	return memory;
}

void *memory_reserve(u64 size)
{
	return map_next(size, PROT_NONE);
}

void memory_map_at(void *at, int fd, u64 size)
{
	map(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd);
}

void *memory_private(u64 size)
{
	return map_next(size, PROT_READ | PROT_WRITE);
}
