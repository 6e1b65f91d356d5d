// SPDX-License-Identifier: Apache-2.0
/*
 * What a stopped core has in its own process: the variables of this program, but not those of the C library (image.lds), and
 * the canary of the stacks.  All else that it knows lies in RAM.
 *
 * Another process of the same program continues from there: it has the same addresses, and its own PROCESS_LOCAL ones.
 */
#include <string.h>

#include "image.h"

struct image {
	u64 complete;
	u64 canary; /* which the frames on the stacks of tasks have */
	u8 variables[];
};

extern u8 variables_start[], variables_end[];

static u64 size(void)
{
	return (u64)(variables_end - variables_start);
}

u64 image_size(void)
{
	return sizeof(struct image) + size();
}

void image_save(struct image *image)
{
	asm("mov %%fs:0x28, %0" : "=r"(image->canary));
	memcpy(image->variables, variables_start, size());
	image->complete = 1;
}

/* A function with a canary of its own would find another one at its end. */
__attribute__((no_stack_protector)) void image_load(const struct image *image)
{
	memcpy(variables_start, image->variables, size());
	asm volatile("mov %0, %%fs:0x28" : : "r"(image->canary));
}
