// SPDX-License-Identifier: Apache-2.0
/* Protobuf's encoding: a key with the field's number and its kind, and then a number or bytes. */
#include "wire.h"

#include "../core.h"

enum { VARINT, FIXED_64, BYTES, FIXED_32 = 5, KIND_BITS = 3, KIND_MASK = 7, MOST_DIGITS = 10 };

struct reader reader_of(const void *data, u64 size)
{
	return (struct reader){ data, (const u8 *)data + size, false };
}

u64 reader_size(const struct reader *r)
{
	return (u64)(r->end - r->at);
}

bool reader_is(const struct reader *r, const char *text)
{
	u64 size = string_size(text);

	return reader_size(r) == size && bytes_equal(r->at, text, size);
}

char *reader_text(const struct reader *r)
{
	u64 size = reader_size(r);
	char *text;

	for (u64 i = 0; i < size; i++)
		if (!r->at[i])
			return NULL;
	text = kmalloc(size + 1);
	if (text)
		bytes_copy(text, r->at, size);
	return text;
}

u64 reader_number(struct reader *r)
{
	u64 value = 0;

	for (u32 i = 0; i < MOST_DIGITS && r->at < r->end; i++) {
		u8 byte = *r->at++;

		value |= (u64)(byte & 0x7f) << (7 * i);
		if (!(byte & 0x80))
			return value;
	}
	r->broken = true;
	return 0;
}

static u64 fixed(struct reader *r, u32 size)
{
	u64 value = 0;

	if (reader_size(r) < size) {
		r->broken = true;
		return 0;
	}
	bytes_copy(&value, r->at, size);
	r->at += size;
	return value;
}

static struct reader bytes(struct reader *r)
{
	u64 size = reader_number(r);
	const u8 *at = r->at;

	if (r->broken || size > reader_size(r)) {
		r->broken = true;
		return reader_of(at, 0);
	}
	r->at += size;
	return reader_of(at, size);
}

bool field_next(struct reader *r, struct field *field)
{
	u64 key;

	*field = (struct field){ .bytes = reader_of(r->at, 0) };
	if (r->broken || r->at == r->end)
		return false;
	key = reader_number(r);
	field->number = key >> KIND_BITS <= 0xffffffff ? (u32)(key >> KIND_BITS) : 0;
	switch (key & KIND_MASK) {
	case VARINT: field->value = reader_number(r); break;
	case FIXED_64: field->value = fixed(r, sizeof(u64)); break;
	case FIXED_32: field->value = fixed(r, sizeof(u32)); break;
	case BYTES: field->bytes = bytes(r); break;
	default: r->broken = true;
	}
	return !r->broken;
}

struct reader reader_part(struct reader message, u32 number)
{
	struct reader part = reader_of("", 0);
	struct field field;

	while (field_next(&message, &field))
		if (field.number == number)
			part = field.bytes;
	return part;
}

/* -- writing -- */

static void put_varint(struct text *text, u64 value)
{
	u8 digits[MOST_DIGITS];
	u32 count = 0;

	for (; value >= 0x80; value >>= 7)
		digits[count++] = (u8)value | 0x80;
	digits[count++] = (u8)value;
	text_bytes(text, digits, count);
}

void put_field_number(struct text *text, u32 field, u64 value)
{
	put_varint(text, field << KIND_BITS | VARINT);
	put_varint(text, value);
}

void put_field_bytes(struct text *text, u32 field, const void *data, u64 size)
{
	put_varint(text, field << KIND_BITS | BYTES);
	put_varint(text, size);
	text_bytes(text, data, size);
}

void put_field_message(struct text *text, u32 field, struct text *message)
{
	put_field_bytes(text, field, message->data, message->size);
	text->failed = text->failed || message->failed;
	text_free(message);
}

void put_field_text(struct text *text, u32 field, const char *string)
{
	put_field_bytes(text, field, string, string_size(string));
}
