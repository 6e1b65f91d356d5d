// SPDX-License-Identifier: Apache-2.0
/*
 * usage: random_io SEED COUNT FILE BYTES
 *
 * COUNT random operations on a file or a block device of up to BYTES, and the same on a copy in memory: what is read must be
 * what the copy has. A file is read and written by calls, past the cache (O_DIRECT) and through a mapping, cut, made
 * longer, punched, zeroed, copied within itself, flushed, and opened anew without its cache; a block device is not cut,
 * but has ranges discarded, of which nothing is known until they are written.
 *
 * Says "random_io: COUNT operations"; on a difference where it is, the operations that came before it, and ends with
 * status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 1 << 16, BLOCK = 4096, REMEMBERED = 24 };

static uint64_t state;
static char *copy;  /* what must be there */
static char *known; /* of each byte: whether anything is */
static size_t most, length;
static const char *path;
static int fd = -1, direct = -1;
static bool is_device;
static long number;
static char *buf;

static struct record {
	long number;
	const char *what;
	size_t at, size;
} records[REMEMBERED];

static uint64_t chance(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below ? state % below : 0;
}

static void remember(const char *what, size_t at, size_t size)
{
	records[number % REMEMBERED] = (struct record){ number, what, at, size };
}

static void end(void)
{
	for (long n = number >= REMEMBERED ? number - REMEMBERED + 1 : 0; n <= number; n++) {
		struct record *r = &records[n % REMEMBERED];

		printf("  %ld: %s at %zu, %zu bytes\n", r->number, r->what, r->at, r->size);
	}
	exit(1);
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	printf("random_io: operation %ld: %s: %s\n", number, what, strerror(errno));
	end();
}

static void compare(const char *what, const char *found, size_t at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (known[at + i] && found[i] != copy[at + i]) {
			printf("random_io: operation %ld: %s: byte %zu is %#x, not %#x\n", number, what, at + i,
			       (unsigned char)found[i], (unsigned char)copy[at + i]);
			end();
		}
}

static void reopen(void)
{
	struct stat status;

	if (fd >= 0) {
		must(!fdatasync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), "leaving the cache");
		must(!close(fd) && !close(direct), "close");
	}
	fd = open(path, O_RDWR | (is_device ? 0 : O_CREAT), 0600);
	must(fd >= 0 && !fstat(fd, &status), path);
	direct = open(path, O_RDWR | O_DIRECT);
	must(direct >= 0, "open past the cache");
	if (!is_device && (size_t)status.st_size != length) {
		printf("random_io: operation %ld: %zu bytes long, not %zu\n", number, (size_t)status.st_size, length);
		end();
	}
}

/* What is now in a range; the file is as long as that at least */
static void set(size_t at, size_t size, const char *data)
{
	if (data)
		memcpy(copy + at, data, size);
	else
		memset(copy + at, 0, size);
	memset(known + at, 1, size);
	if (at + size > length)
		length = at + size;
}

static void fill(size_t size)
{
	uint64_t word = chance(0);

	/* Each eight bytes are others, and cost one addition */
	for (size_t i = 0; i < size; i += 8, word += 0x9e3779b97f4a7c15)
		memcpy(buf + i, &word, 8);
}

static void through_mapping(size_t at, size_t size, bool write)
{
	size_t start = at & ~(size_t)(BLOCK - 1);
	char *map = mmap(NULL, at - start + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);

	must(map != MAP_FAILED, "mmap");
	if (write) {
		memcpy(map + (at - start), buf, size);
		set(at, size, buf);
	} else {
		compare("mapped", map + (at - start), at, size);
	}
	must(!munmap(map, at - start + size), "munmap");
}

static void resize(size_t size)
{
	must(!ftruncate(fd, (off_t)size), "ftruncate");
	if (size > length)
		set(length, size - length, NULL);
	else
		memset(copy + size, 0, length - size);
	length = size;
}

static void operate(void)
{
	static const char *const names[] = { "read", "read", "read", "write", "write", "write", "direct read",
		"direct write", "mapped read", "mapped write", "cut", "punch", "zero", "copy", "flush", "discard" };
	size_t kind = chance(sizeof(names) / sizeof(*names));
	size_t limit = is_device ? length : most, size = 1 + chance(chance(4) ? LONGEST / 16 : LONGEST), at = chance(limit);
	uint64_t range[2];
	ssize_t done;

	if (kind == 6 || kind == 7 || kind == 15 || (is_device && (kind == 11 || kind == 12))) {
		at &= ~(size_t)(BLOCK - 1);
		size = (size + BLOCK - 1) & ~(size_t)(BLOCK - 1);
	}
	if (at + size > limit)
		size = limit - at;
	/* What reads, or changes what is there, does so within it */
	if (!(kind >= 3 && kind <= 5) && kind != 10 && at + size > length) {
		if (at >= length)
			return;
		size = length - at;
	}
	if (kind == 7 && (size & (BLOCK - 1)))
		return;
	remember(names[kind], at, size);
	switch (kind) {
	case 0: case 1: case 2:
		done = pread(fd, buf, size, (off_t)at);
		must(done == (ssize_t)size, "pread");
		compare("read", buf, at, size);
		break;
	case 3: case 4: case 5:
		fill(size);
		if (at > length) /* a hole */
			set(length, at - length, NULL);
		must(pwrite(fd, buf, size, (off_t)at) == (ssize_t)size, "pwrite");
		set(at, size, buf);
		break;
	case 6:
		done = pread(direct, buf, (size + BLOCK - 1) & ~(size_t)(BLOCK - 1), (off_t)at);
		must(done == (ssize_t)size, "pread past the cache");
		compare("read past the cache", buf, at, size);
		break;
	case 7:
		fill(size);
		must(pwrite(direct, buf, size, (off_t)at) == (ssize_t)size, "pwrite past the cache");
		set(at, size, buf);
		break;
	case 8: case 9:
		fill(kind == 9 ? size : 0);
		through_mapping(at, size, kind == 9);
		break;
	case 10:
		if (!is_device)
			resize(chance(4) ? at : chance(BLOCK));
		break;
	case 11: case 12:
		must(!fallocate(fd, FALLOC_FL_KEEP_SIZE | (kind == 11 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE), (off_t)at,
				(off_t)size) || errno == EOPNOTSUPP, "fallocate");
		if (errno == EOPNOTSUPP)
			errno = 0;
		else
			set(at, size, NULL);
		break;
	case 13: {
		size_t to = chance(length - size + 1);
		loff_t from = (loff_t)at, where = (loff_t)to;

		if (is_device || (to < at + size && at < to + size))
			break;
		done = copy_file_range(fd, &from, fd, &where, size, 0);
		must(done > 0, "copy_file_range");
		memcpy(buf, copy + at, (size_t)done);
		set(to, (size_t)done, buf);
		break;
	}
	case 14:
		if (!chance(16))
			reopen();
		else if (!chance(4))
			must(!fdatasync(fd), "fdatasync");
		break;
	case 15:
		if (!is_device)
			break;
		range[0] = at;
		range[1] = size;
		must(!ioctl(fd, BLKDISCARD, range) || errno == EOPNOTSUPP, "BLKDISCARD");
		if (errno == EOPNOTSUPP)
			errno = 0;
		else
			memset(known + at, 0, size);
		break;
	}
}

int main(int argc, char **argv)
{
	struct stat status;
	long count;

	if (argc != 5) {
		fprintf(stderr, "usage: random_io SEED COUNT FILE BYTES\n");
		return 2;
	}
	state = strtoull(argv[1], NULL, 0) * 2654435761u + 1;
	count = atol(argv[2]);
	path = argv[3];
	most = strtoull(argv[4], NULL, 0) & ~(size_t)(BLOCK - 1);
	is_device = !stat(path, &status) && S_ISBLK(status.st_mode);
	length = is_device ? most : 0;
	copy = calloc(1, most + LONGEST);
	known = calloc(1, most + LONGEST);
	buf = aligned_alloc(BLOCK, LONGEST + BLOCK);
	must(copy && known && buf, "memory");
	reopen();
	for (number = 0; number < count; number++) {
		errno = 0;
		operate();
	}
	reopen();
	for (size_t at = 0; at < length; at += LONGEST) {
		size_t size = length - at < LONGEST ? length - at : LONGEST;

		must(pread(fd, buf, size, (off_t)at) == (ssize_t)size, "pread at the end");
		compare("at the end", buf, at, size);
	}
	must(!fsync(fd), "fsync");
	printf("random_io: %ld operations\n", count);
	return 0;
}
