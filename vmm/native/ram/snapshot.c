// SPDX-License-Identifier: Apache-2.0
/* Checks of a snapshot's files: checksums, and the structure of a state before Python decodes it. */
#include "base/native.h"

#include <errno.h>
#include <nmmintrin.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CRC_PAGE = 4096, CRC_BLOCK = 128 << 10 };

#define CRC32C_POLY 0x82f63b78u /* bit-reflected */

typedef uint32_t (*crc_fn)(uint32_t crc, const uint8_t *data, size_t size);

__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const uint8_t *data, size_t size)
{
	uint64_t wide = crc;

	for (; size >= 8; data += 8, size -= 8) {
		uint64_t word;

		memcpy(&word, data, 8);
		wide = _mm_crc32_u64(wide, word);
	}
	crc = (uint32_t)wide;
	for (; size; data++, size--)
		crc = _mm_crc32_u8(crc, *data);
	return crc;
}

static uint32_t crc_plain(uint32_t crc, const uint8_t *data, size_t size)
{
	for (; size; data++, size--) {
		crc ^= *data;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? CRC32C_POLY : 0);
	}
	return crc;
}

static bool is_zero(const uint8_t *data, size_t size)
{
	return !data[0] && !memcmp(data, data + 1, size - 1);
}

/* Add the pages of one block, which begins at the offset at. */
static uint32_t crc_block(crc_fn add, uint32_t crc, const uint8_t *data, size_t size, uint64_t at)
{
	for (size_t done = 0; done < size; done += CRC_PAGE) {
		const size_t length = size - done < CRC_PAGE ? size - done : CRC_PAGE;
		const uint64_t place = at + done;

		/* Skip zeros, since a file system may store them as a hole, or a hole as zeros. */
		if (is_zero(data + done, length))
			continue;
		crc = add(crc, (const uint8_t *)&place, sizeof(place));
		crc = add(crc, data + done, length);
	}
	return crc;
}

static int64_t crc_range(crc_fn add, uint32_t crc, int fd, uint8_t *block, uint64_t at, uint64_t end)
{
	while (at < end) {
		size_t want = end - at < CRC_BLOCK ? (size_t)(end - at) : CRC_BLOCK, have = 0;

		while (have < want) {
			const ssize_t n = pread(fd, block + have, want - have, (off_t)(at + have));

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n < 0 ? -errno : -ENODATA;
			have += (size_t)n;
		}
		crc = crc_block(add, crc, block, have, at);
		at += have;
	}
	return crc;
}

int64_t file_crc32c(int fd, uint64_t size)
{
	const crc_fn add = __builtin_cpu_supports("sse4.2") ? crc_fast : crc_plain;
	uint8_t *block = malloc(CRC_BLOCK);
	int64_t crc = 0xffffffff;
	uint64_t at = 0;

	if (!block)
		return -ENOMEM;
	while (crc >= 0 && at < size) {
		const off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		off_t hole;

		if (data < 0 && errno != ENXIO)
			crc = -errno;
		if (data < 0 || (uint64_t)data >= size)
			break;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0) {
			crc = -errno;
			break;
		}
		/* Pages are counted from the start of the file, independent of the file system's blocks. */
		at = (uint64_t)data & ~(uint64_t)(CRC_PAGE - 1);
		hole = (hole + CRC_PAGE - 1) & ~(off_t)(CRC_PAGE - 1);
		crc = crc_range(add, (uint32_t)crc, fd, block, at, (uint64_t)hole < size ? (uint64_t)hole : size);
		at = (uint64_t)hole;
	}
	free(block);
	return crc < 0 ? crc : (int64_t)((uint32_t)crc ^ 0xffffffff);
}

int cbor_check(const uint8_t *data, uint64_t size, uint32_t most)
{
	uint64_t left[CBOR_DEPTH + 1] = { 1 }, at = 0;
	uint32_t depth = 0;

	for (;;) {
		uint64_t value;
		uint8_t head;

		while (!left[depth]) {
			if (!depth)
				return at == size ? 0 : -EBADMSG;
			depth--;
		}
		left[depth]--;
		if (!most--)
			return -E2BIG;
		if (at >= size)
			return -EBADMSG;
		head = data[at++];
		value = head & 31;
		if (value >= 24) {
			const uint32_t bytes = 1u << (value - 24);

			/* 28 and above: reserved, or an indefinite length. */
			if (value > 27 || size - at < bytes)
				return -EBADMSG;
			value = 0;
			for (uint32_t i = 0; i < bytes; i++)
				value = value << 8 | data[at++];
		}
		switch (head >> 5) {
		case 0: /* numbers */
		case 1:
			break;
		case 2: /* bytes, text */
		case 3:
			if (value > size - at)
				return -EBADMSG;
			at += value;
			break;
		case 4: /* lists, maps: each item takes at least one byte */
		case 5:
			if (value > size - at)
				return -EBADMSG;
			if (depth == CBOR_DEPTH)
				return -E2BIG;
			left[++depth] = head >> 5 == 5 ? 2 * value : value;
			break;
		case 6: /* a tag makes a decoder create objects of other types */
			return -EOPNOTSUPP;
		default: /* false, true, null, floating point */
			if ((head & 31) < 20 || (head & 31) > 27 || (head & 31) == 23 || (head & 31) == 24)
				return -EBADMSG;
		}
	}
}
