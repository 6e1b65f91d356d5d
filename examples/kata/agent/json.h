/* SPDX-License-Identifier: Apache-2.0 */
/* Writes JSON (RFC 8259) into a string that grows. */
#ifndef AGENT_JSON_H
#define AGENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
	char *text; /* not terminated; the caller frees it */
	size_t used, size;
	bool comma; /* a comma comes before the next value */
};

/* A `name` of NULL is for the members of a list, which have none. */
void json_open(struct json *json, const char *name, char bracket);
void json_close(struct json *json, char bracket);
void json_string(struct json *json, const char *name, const char *value);
void json_int(struct json *json, const char *name, int64_t value);
void json_uint(struct json *json, const char *name, uint64_t value);
/* Text that is JSON already. */
void json_raw(struct json *json, const char *text, size_t size);
void json_bool(struct json *json, const char *name, bool value);

#endif
