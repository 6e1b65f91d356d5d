/*
 * usage: touch_memory MIB small|huge [keep]
 *
 * Takes so much memory, in small pages or in huge ones where the kernel has them, writes to each 4 KiB what nothing else
 * holds, then looks whether all of it is still there. Prints the number of MiB, and how many of them are in huge pages.
 * Then it ends, or keeps the memory until it is killed.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, WORDS = PAGE / sizeof(uint64_t) };

/* The KiB of all processes that are in huge pages; of one process only a kernel with CONFIG_PROC_PAGE_MONITOR tells it */
static long huge_kib(void)
{
	char line[256];
	long kib = -1;
	FILE *file = fopen("/proc/meminfo", "r");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "AnonHugePages: %ld", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static uint64_t *page_at(char *memory, size_t page)
{
	return (uint64_t *)(memory + page * PAGE);
}

int main(int argc, char **argv)
{
	size_t mib = argc >= 3 ? strtoul(argv[1], NULL, 10) : 0;
	size_t pages = mib << 20 >> 12;
	char *memory;
	long before;

	if (!mib || (strcmp(argv[2], "small") && strcmp(argv[2], "huge"))) {
		fprintf(stderr, "usage: touch_memory MIB small|huge [keep]\n");
		return 2;
	}
	memory = mmap(NULL, (mib << 20) + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	memory = (char *)(((uintptr_t)memory + HUGE - 1) & -(uintptr_t)HUGE);
	if (madvise(memory, mib << 20, strcmp(argv[2], "huge") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE))
		perror("madvise");
	before = huge_kib();
	for (size_t page = 0; page < pages; page++) {
		page_at(memory, page)[0] = page;
		page_at(memory, page)[WORDS - 1] = ~page;
	}
	for (size_t page = 0; page < pages; page++) {
		if (page_at(memory, page)[0] != page || page_at(memory, page)[WORDS - 1] != ~page) {
			fprintf(stderr, "page %zu is not what was written to it\n", page);
			return 1;
		}
	}
	printf("%zu %ld\n", mib, (huge_kib() - before) / 1024);
	fflush(stdout);
	if (argc > 3)
		pause();
	return 0;
}
