// SPDX-License-Identifier: Apache-2.0
/*
 * Streams that share a console, for a reader that separates them: each piece of output begins with a mark, the number of
 * its stream, and its size in two bytes.  Input has an escape before the bytes that mean something else on a console.
 */
#include "start.h"

enum { MARK = 1, END_OF_INPUT = 4, ESCAPE = 0x10, FLIP = 0x40, HEAD = 4, STREAM_END = 3, STREAM_POINT = 4 };

static bool ended, escaped;

s64 frames_write(int stream, const void *data, u64 size)
{
	u8 frame[PAGE_SIZE]; /* not shared: input that comes while this one waits for room is echoed before it */

	for (u64 done = 0, part; done < size; done += part) {
		part = size - done < sizeof(frame) - HEAD ? size - done : sizeof(frame) - HEAD;
		frame[0] = MARK;
		frame[1] = (u8)stream;
		frame[2] = (u8)part;
		frame[3] = (u8)(part >> 8);
		memcpy(frame + HEAD, (const u8 *)data + done, part);
		raw_write(stream, frame, HEAD + part);
	}
	return (s64)size;
}

/* At least one byte, or 0 for the end of the input, which stays. */
s64 frames_read(void *data, u64 size)
{
	u8 *bytes = data;
	u64 used = 0;

	while (!ended && !used) {
		s64 got = raw_read(data, size);

		ended = got <= 0;
		for (s64 i = 0; i < got && !ended; i++) {
			ended = !escaped && bytes[i] == END_OF_INPUT; /* on a raw console */
			if (ended)
				break;
			if (escaped || bytes[i] != ESCAPE)
				bytes[used++] = escaped ? bytes[i] ^ FLIP : bytes[i];
			escaped = !escaped && bytes[i] == ESCAPE;
		}
	}
	return (s64)used;
}

bool frames_ended(void)
{
	return ended;
}

void frames_point(enum point point, u32 value)
{
	const u32 what[2] = { point, value };

	frames_write(STREAM_POINT, what, sizeof(what));
}

void frames_end(struct core_exit end)
{
	const u8 how[2] = { (u8)end.status, (u8)end.signal };

	frames_write(STREAM_END, how, sizeof(how));
}
