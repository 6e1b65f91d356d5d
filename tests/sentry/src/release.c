// SPDX-License-Identifier: Apache-2.0
/* Uses 64 MiB, frees them, and waits: after each step it prints a line, and reads one. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { SIZE = 64 << 20 };

static void step(const char *name)
{
	char line[16];

	puts(name);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		puts("no line");
}

int main(void)
{
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int wrong = 0;

	step("start");
	memset(memory, 0xa5, SIZE);
	step("used");
	munmap(memory, SIZE);
	step("freed");
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < SIZE; i += 4096)
		wrong += memory[i] != 0 || memory[i + 4095] != 0;
	printf("%d pages are not zero\n", wrong);
	return 0;
}
