/* SPDX-License-Identifier: Apache-2.0 */
/* A connection, and what ttrpc.c (bytes and frames) and call.c (calls and answers) have of each other. */
#ifndef AGENT_CONN_H
#define AGENT_CONN_H

#include "ttrpc.h"

#include <endian.h>
#include <string.h>

enum frame_type {
	FRAME_REQUEST = 1,
	FRAME_RESPONSE = 2,
};

struct conn {
	struct watch watch;
	struct call *calls;
	unsigned int call_count;
	uint8_t header[TTRPC_HEADER];
	size_t header_used;
	uint8_t *body; /* of the frame whose header is there */
	size_t body_size, body_used;
	bool skipping; /* a frame that is too large is read and dropped */
	uint8_t *out;
	size_t out_size, out_used;
};

static inline uint32_t frame_get_be32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

/* Write what the socket takes and keep the rest. An error shows when the socket is read. */
void conn_send(struct conn *conn, const uint8_t *data, size_t size);
/* Answer a stream that has not become a call. */
void conn_send_failure(struct conn *conn, uint32_t stream, enum status_code code, const char *text);
/* A Request has come: find its method, decode what the method takes, and call it. */
void call_begin(struct conn *conn, uint32_t stream, const uint8_t *body, size_t size);
/* The connection ends: parked calls go, the others run on without anybody to answer. */
void calls_end(struct conn *conn);

#endif
