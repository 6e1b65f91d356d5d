// SPDX-License-Identifier: Apache-2.0
/* Text that grows. */
#include "text.h"

#include "caller.h"

static bool make_room(struct text *text, u64 size)
{
	u64 room = text->room ? text->room : 256;
	char *data;

	if (size <= text->room - text->size)
		return true;
	while (room < text->size + size)
		room *= 2;
	data = text->failed ? NULL : kmalloc(room);
	if (!data) {
		text->failed = true;
		return false;
	}
	bytes_copy(data, text->data, text->size);
	kfree(text->data);
	text->data = data;
	text->room = room;
	return true;
}

void text_bytes(struct text *text, const void *data, u64 size)
{
	if (!make_room(text, size))
		return;
	bytes_copy(text->data + text->size, data, size);
	text->size += size;
}

void text_put(struct text *text, const char *string)
{
	text_bytes(text, string, string_size(string));
}

static void put_digits(struct text *text, u64 value, u32 base, u32 digits)
{
	char all[24];
	u32 at = sizeof(all);

	do {
		all[--at] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (sizeof(all) - at < digits && at)
		all[--at] = '0';
	text_bytes(text, all + at, sizeof(all) - at);
}

void text_number(struct text *text, u64 value)
{
	put_digits(text, value, 10, 1);
}

void text_signed(struct text *text, s64 value)
{
	if (value < 0)
		text_put(text, "-");
	text_number(text, value < 0 ? -(u64)value : (u64)value);
}

void text_hex(struct text *text, u64 value, u32 digits)
{
	put_digits(text, value, 16, digits);
}

void text_octal(struct text *text, u64 value, u32 digits)
{
	put_digits(text, value, 8, digits);
}

void text_line(struct text *text, const char *name, u64 value, const char *unit)
{
	text_put(text, name);
	text_number(text, value);
	text_put(text, unit);
	text_put(text, "\n");
}

void text_free(struct text *text)
{
	kfree(text->data);
	*text = (struct text){ .data = NULL };
}
