// SPDX-License-Identifier: Apache-2.0
/*
 * What a stopped core has in its own process: the variables of this program.  All else that it knows lies in RAM.
 *
 * Another process of the same nursery continues from there: it has the same addresses, and its own PROCESS_LOCAL ones.
 */
#include <string.h>

#include "image.h"

struct image {
	u64 complete;
	u8 variables[];
};

extern u8 data_start[], _end[], __start_process_local[], __stop_process_local[];

static u64 first_size(void)
{
	return (u64)(__start_process_local - data_start);
}

static u64 second_size(void)
{
	return (u64)(_end - __stop_process_local);
}

u64 image_size(void)
{
	return sizeof(struct image) + first_size() + second_size();
}

void image_save(struct image *image)
{
	memcpy(image->variables, data_start, first_size());
	memcpy(image->variables + first_size(), __stop_process_local, second_size());
	image->complete = 1;
}

void image_load(const struct image *image)
{
	memcpy(data_start, image->variables, first_size());
	memcpy(__stop_process_local, image->variables + first_size(), second_size());
}
