/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of protobuf: fields that are read one by one, and fields at the end of a text. */
#ifndef SENTRY_WIRE_H
#define SENTRY_WIRE_H

#include "../vfs/text.h"

struct reader {
	const u8 *at, *end;
	bool broken; /* this is no message */
};

/* A number or bytes: the other one is 0 or empty. */
struct field {
	u32 number;
	u64 value;
	struct reader bytes;
};

struct reader reader_of(const void *data, u64 size);
u64 reader_number(struct reader *r); /* a number without a key */
bool field_next(struct reader *r, struct field *field); /* false: the end, or what follows is broken */
u64 reader_size(const struct reader *r);
bool reader_is(const struct reader *r, const char *text);
struct reader reader_part(struct reader message, u32 number); /* the last field of that number, or nothing */
/* Copy bytes into memory of kmalloc, with a zero behind them; NULL: no memory, or there is a zero among them. */
char *reader_text(const struct reader *r);

void put_field_number(struct text *text, u32 field, u64 value);
void put_field_bytes(struct text *text, u32 field, const void *data, u64 size);
/* Free the message, too.  If it has failed, so has the text. */
void put_field_message(struct text *text, u32 field, struct text *message);
void put_field_text(struct text *text, u32 field, const char *string);

#endif
