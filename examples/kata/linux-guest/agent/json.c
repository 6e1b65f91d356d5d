// SPDX-License-Identifier: Apache-2.0
#include "oci.h"

#include "util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void json_put(struct json *json, const char *text, size_t size)
{
	if (json->size - json->used < size) {
		size_t wanted = (json->used + size) * 2;
		char *larger = xzalloc(wanted);

		if (json->used)
			memcpy(larger, json->text, json->used);
		free(json->text);
		json->text = larger;
		json->size = wanted;
	}
	memcpy(json->text + json->used, text, size);
	json->used += size;
}

static void put_quoted(struct json *json, const char *text)
{
	json_put(json, "\"", 1);
	while (*text) {
		size_t plain = 0;
		char escape[8];

		while ((unsigned char)text[plain] >= 0x20 && text[plain] != '"' && text[plain] != '\\')
			plain++;
		json_put(json, text, plain);
		text += plain;
		if (*text) {
			int length = snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*text++);

			json_put(json, escape, length);
		}
	}
	json_put(json, "\"", 1);
}

static void json_begin(struct json *json, const char *name)
{
	if (json->comma)
		json_put(json, ",", 1);
	json->comma = true;
	if (name) {
		put_quoted(json, name);
		json_put(json, ":", 1);
	}
}

void json_open(struct json *json, const char *name, char bracket)
{
	json_begin(json, name);
	json_put(json, &bracket, 1);
	json->comma = false;
}

void json_close(struct json *json, char bracket)
{
	json_put(json, &bracket, 1);
	json->comma = true;
}

void json_string(struct json *json, const char *name, const char *value)
{
	json_begin(json, name);
	put_quoted(json, text_of(value));
}

static void put_number(struct json *json, const char *name, const char *text)
{
	json_begin(json, name);
	json_put(json, text, strlen(text));
}

void json_int(struct json *json, const char *name, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	put_number(json, name, text);
}

void json_uint(struct json *json, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	put_number(json, name, text);
}

void json_raw(struct json *json, const char *text, size_t size)
{
	json_put(json, text, size);
	json->comma = false;
}

void json_bool(struct json *json, const char *name, bool value)
{
	put_number(json, name, value ? "true" : "false");
}
