/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows, for files whose content the core writes. */
#ifndef SENTRY_TEXT_H
#define SENTRY_TEXT_H

#include "../types.h"

struct text {
	char *data;
	u64 size, room;
	bool failed; /* no memory: it ends early */
};

void text_put(struct text *text, const char *string);
void text_bytes(struct text *text, const void *data, u64 size);
void text_number(struct text *text, u64 value);
void text_signed(struct text *text, s64 value);
void text_hex(struct text *text, u64 value, u32 digits); /* at least so many, with zeros */
void text_octal(struct text *text, u64 value, u32 digits);
void text_line(struct text *text, const char *name, u64 value, const char *unit); /* name, value, unit, newline */
void text_cpus(struct text *text, u64 mask); /* as masks of CPUs are written */
void text_cpu_list(struct text *text, u64 mask); /* as ranges, such as 0-2,5 */
void text_free(struct text *text);

#endif
