/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzzers of devices share: how the guest's descriptors look, how input is taken, how a broken promise ends. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define require(what)                                                           \
	do {                                                                    \
		if (!(what)) {                                                  \
			fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); \
			abort();                                                \
		}                                                               \
	} while (0)

/* The next bytes of the input, fewer at its end. */
static inline size_t take(const uint8_t **data, size_t *size, void *to, size_t want)
{
	size_t n = want < *size ? want : *size;

	memcpy(to, *data, n);
	*data += n;
	*size -= n;
	return n;
}

#endif
