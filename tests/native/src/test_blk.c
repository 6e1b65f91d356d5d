// SPDX-License-Identifier: Apache-2.0
/* blk*.c: what a disk answers, for each engine and on several file systems, and what the host does to it. */
#include "disk.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* A disk whose file, file system or limits are not as one would wish. */


static struct disk d;

void *ram(uint64_t gpa)
{
	return guest_ptr(&d.g, gpa);
}

static void writethrough(void)
{
	uint8_t buf[4096];

	disk_open(&d);
	blk_set_writeback(d.blk, 0);
	fill(ram(AT_DATA), 4096, 5);
	CHECK_EQ(disk_rw(&d, T_OUT, 8, AT_DATA, 4096), S_OK);
	disk_peek(&d, 4096, buf, sizeof(buf));
	CHECK(filled(buf, sizeof(buf), 5));
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 8, 8, 0), S_OK);
	disk_peek(&d, 4096, buf, sizeof(buf));
	CHECK(all_zero(buf, sizeof(buf)));
	CHECK_EQ(disk_range(&d, T_DISCARD, 8, 8, 0), S_OK);
	disk_close(&d);
}

static void replace_image(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	CHECK(fd >= 0);
	close(d.fd);
	d.fd = d.config.fd = fd;
}

/* /dev/full is the real thing: every write to it fails with ENOSPC. */
static void host_has_no_space(void)
{
	eventfd_t n;

	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	replace_image("/dev/full", O_RDWR);
	disk_start(&d);
	while (read(d.g.event_fd, &n, sizeof(n)) > 0)
		;
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_IOERR);
	CHECK_EQ(disk_stats(&d).last_errno, ENOSPC);
	CHECK(event_wait(d.g.event_fd));
	/* Told once: the same again is counted, not signalled. */
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_IOERR);
	CHECK(disk_stats(&d).errors >= 2);
	CHECK_EQ(read(d.g.event_fd, &n, sizeof(n)), -1);
	CHECK_EQ(worker_error(d.worker), 0);
	disk_close(&d);
}

static void file_size_limit(void)
{
	struct rlimit limit = { 4096, 4096 };

	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	CHECK(ftruncate(d.fd, 0) == 0);
	disk_start(&d);
	/* A write over the limit is a signal for the thread that does it, unless it is blocked there. */
	signal(SIGXFSZ, SIG_DFL);
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_OK);
	CHECK_EQ(disk_rw(&d, T_OUT, 8, AT_DATA, 4096), S_IOERR);
	CHECK_EQ(disk_stats(&d).last_errno, EFBIG);
	/* Half of it fits: that is no success either. */
	CHECK_EQ(disk_rw(&d, T_OUT, 4, AT_DATA, 4096), S_IOERR);
	disk_close(&d);
}

static void image_shorter_than_the_disk(void)
{
	uint32_t used;

	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	disk_start(&d);
	CHECK(ftruncate(d.fd, 1024) == 0);
	CHECK_EQ(disk_do(&d, (struct request){ T_IN, 0, AT_DATA, 4096, true }, &used), S_IOERR);
	CHECK(used <= 1024);
	CHECK_EQ(disk_stats(&d).last_errno, EIO);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 1024), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 100, AT_DATA, 1024), S_IOERR);
	disk_close(&d);
}

static void image_not_writable(void)
{
	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	replace_image(d.path, O_RDONLY);
	disk_start(&d);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_IOERR);
	CHECK_EQ(disk_stats(&d).last_errno, EBADF);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 0, 8, 0), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 4096), S_OK);
	disk_close(&d);
}

static void resized(void)
{
	disk_open(&d);
	CHECK_EQ(disk_rw(&d, T_OUT, 2048, AT_DATA, 512), S_IOERR);
	CHECK(ftruncate(d.fd, 4096 * 512) == 0);
	blk_set_capacity(d.blk, 4096);
	CHECK_EQ(disk_rw(&d, T_OUT, 2048, AT_DATA, 512), S_OK);
	blk_set_capacity(d.blk, 1024);
	CHECK_EQ(disk_rw(&d, T_OUT, 1024, AT_DATA, 512), S_IOERR);
	blk_set_capacity(d.blk, UINT64_MAX);
	CHECK_EQ(disk_rw(&d, T_OUT, UINT64_MAX / 512, AT_DATA, 512), S_IOERR);
	disk_close(&d);
}

static void disk_config_refused(void)
{
	struct blk_config c;
	int err;

	disk_make(&d, 16, 0, 2048, 0);
	c = d.config;
	c.fd = -1;
	CHECK(!blk_new(&c, &err));
	CHECK_EQ(err, -EBADF);
	c = d.config;
	c.alignment = 0;
	CHECK(!blk_new(&c, &err));
	CHECK_EQ(err, -EINVAL);
	c.alignment = 24;
	CHECK(!blk_new(&c, &err));
	c.alignment = 1u << 20;
	CHECK(!blk_new(&c, &err));
	c = d.config;
	c.capacity = 1ull << 55;
	CHECK(!blk_new(&c, &err));
	c = d.config;
	c.max_discard_seg = 513;
	CHECK(!blk_new(&c, &err));
	disk_start(&d);
	disk_close(&d);
}

static void direct(uint32_t alignment)
{
	uint8_t guard[512];

	disk_make(&d, 16, RING_EVENT_IDX, 4096, O_DIRECT);
	d.config.flags |= BLK_DIRECT;
	d.config.alignment = alignment;
	disk_start(&d);
	/* As direct I/O wants it. */
	fill(ram(AT_DATA), 1 << 20, 1);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 1 << 20), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA + 0x200000, 1 << 20), S_OK);
	CHECK(filled(ram(AT_DATA + 0x200000), 1 << 20, 1));
	/* Buffers at odd addresses, larger than the bounce buffer. */
	fill(ram(AT_DATA + 1028), 1 << 20, 2);
	CHECK_EQ(disk_rw(&d, T_OUT, 1024, AT_DATA + 1028, 1 << 20), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 1024, AT_DATA + 0x200004, 1 << 20), S_OK);
	CHECK(filled(ram(AT_DATA + 0x200004), 1 << 20, 2));
	/* Single sectors in the middle of larger blocks; their neighbours stay. */
	fill(ram(AT_DATA), 512, 3);
	CHECK_EQ(disk_rw(&d, T_OUT, 3, AT_DATA, 512), S_OK);
	disk_peek(&d, 2 * 512, guard, 512);
	CHECK(filled(guard, 512, 1 + 2 * 128));
	disk_peek(&d, 4 * 512, guard, 512);
	CHECK(filled(guard, 512, 1 + 4 * 128));
	CHECK_EQ(disk_rw(&d, T_IN, 3, AT_DATA + 0x1000, 512), S_OK);
	CHECK(filled(ram(AT_DATA + 0x1000), 512, 3));
	/* 700 KiB from an odd sector on. */
	fill(ram(AT_DATA), 700 << 10, 8);
	CHECK_EQ(disk_rw(&d, T_OUT, 777, AT_DATA, 700 << 10), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 777, AT_DATA + 0x200000, 700 << 10), S_OK);
	CHECK(filled(ram(AT_DATA + 0x200000), 700 << 10, 8));
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 778, 9, 0), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 777, AT_DATA, 11 * 512), S_OK);
	CHECK(filled(ram(AT_DATA), 512, 8));
	CHECK(all_zero(ram(AT_DATA + 512), 9 * 512));
	CHECK(filled(ram(AT_DATA + 10 * 512), 512, 8 + 10 * 128));
	CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
	disk_close(&d);
}

static void direct_512(void)
{
	direct(512);
}

static void direct_4096(void)
{
	direct(4096);
}

/* What a disk answers. */


static void read_and_write(void)
{
	uint32_t used;

	disk_open(&d);
	fill(ram(AT_DATA), 65536, 7);
	CHECK_EQ(disk_do(&d, (struct request){ T_OUT, 100, AT_DATA, 65536, false }, &used), S_OK);
	CHECK_EQ(used, 1);
	CHECK_EQ(disk_do(&d, (struct request){ T_IN, 100, AT_DATA + 0x100000, 65536, true }, &used), S_OK);
	CHECK_EQ(used, 65537);
	CHECK(filled(ram(AT_DATA + 0x100000), 65536, 7));
	/* The first and the last sector. */
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 512), S_OK);
	CHECK_EQ(disk_rw(&d, T_OUT, 2047, AT_DATA, 512), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 2047, AT_DATA + 0x20000, 512), S_OK);
	CHECK(filled(ram(AT_DATA + 0x20000), 512, 7));
	/* All of it in one request. */
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA + 0x100000, 1 << 20), S_OK);
	CHECK(filled(ram(AT_DATA + 0x100000 + 100 * 512), 65536, 7));
	struct blk_stats s = disk_stats(&d);

	CHECK_EQ(s.reads, 3);
	CHECK_EQ(s.writes, 3);
	CHECK_EQ(s.read_bytes, 65536 + 512 + (1 << 20));
	CHECK_EQ(s.write_bytes, 65536 + 1024);
	CHECK_EQ(s.errors, 0);
	disk_close(&d);
}

/* The layout is the driver's choice: header in pieces, with data behind it, status at the end of the data. */
static void any_layout(void)
{
	const uint64_t h = AT_DATA - 0x2000, data = AT_DATA;
	uint32_t type[2] = { T_OUT, 0 }, used;
	uint64_t sector = 8;
	uint8_t *status;

	disk_open(&d);
	memcpy(ram(h), type, 8);
	memcpy(ram(h + 8), &sector, 8);
	fill(ram(h + 16), 1024, 3);
	guest_desc(&d.g, 0, h, 1, D_NEXT, 1);
	guest_desc(&d.g, 1, h + 1, 8, D_NEXT, 2);
	guest_desc(&d.g, 2, h + 9, 7 + 300, D_NEXT, 3);
	guest_desc(&d.g, 3, h + 316, 724, D_NEXT, 4);
	guest_desc(&d.g, 4, data, 1, D_WRITE, 0);
	guest_offer(&d.g, 0);
	guest_kick(&d.g);
	guest_take(&d.g, &used);
	CHECK_EQ(*(uint8_t *)ram(data), S_OK);
	CHECK_EQ(used, 1);

	type[0] = T_IN;
	memcpy(ram(h), type, 8);
	guest_desc(&d.g, 0, h, 16, D_NEXT, 1);
	guest_desc(&d.g, 1, data, 1000, D_WRITE | D_NEXT, 2);
	guest_desc(&d.g, 2, data + 1000, 25, D_WRITE, 0);
	status = ram(data + 1024);
	*status = S_NONE;
	guest_offer(&d.g, 0);
	guest_kick(&d.g);
	guest_take(&d.g, &used);
	CHECK_EQ(*status, S_OK);
	CHECK_EQ(used, 1025);
	CHECK(filled(ram(data), 1024, 3));
	disk_close(&d);
}

static void many_segments(void)
{
	uint32_t type[2] = { T_OUT, 0 };
	uint64_t sector = 0;
	struct { uint64_t addr; uint32_t len; uint16_t flags, next; } *t;

	disk_open(&d);
	memcpy(ram(AT_DATA - 64), type, 8);
	memcpy(ram(AT_DATA - 56), &sector, 8);
	t = ram(AT_DATA - 0x10000);
	for (int round = 0; round < 2; round++) {
		for (uint16_t i = 0; i < 254; i++)
			fill(ram(AT_DATA + 0x2000ull * i), 4096, round ? 0 : i);
		t[0].addr = AT_DATA - 64, t[0].len = 16, t[0].flags = D_NEXT, t[0].next = 1;
		for (uint16_t i = 0; i < 254; i++) {
			t[i + 1].addr = AT_DATA + 0x2000ull * i;
			t[i + 1].len = 4096;
			t[i + 1].flags = D_NEXT | (round ? D_WRITE : 0);
			t[i + 1].next = i + 2;
		}
		t[255].addr = AT_DATA - 32, t[255].len = 1, t[255].flags = D_WRITE, t[255].next = 0;
		*(uint8_t *)ram(AT_DATA - 32) = S_NONE;
		guest_desc(&d.g, 5, AT_DATA - 0x10000, 256 * 16, D_INDIRECT, 0);
		guest_offer(&d.g, 5);
		guest_kick(&d.g);
		CHECK_EQ(guest_take(&d.g, NULL), 5);
		CHECK_EQ(*(uint8_t *)ram(AT_DATA - 32), S_OK);
		if (round)
			for (uint16_t i = 0; i < 254; i++)
				CHECK(filled(ram(AT_DATA + 0x2000ull * i), 4096, i));
		type[0] = T_IN;
		memcpy(ram(AT_DATA - 64), type, 8);
	}
	/* One more than seg_max. */
	type[0] = T_OUT;
	memcpy(ram(AT_DATA - 64), type, 8);
	for (uint16_t i = 0; i < 255; i++)
		t[i + 1].addr = AT_DATA, t[i + 1].len = 512, t[i + 1].flags = D_NEXT, t[i + 1].next = i + 2;
	t[256].addr = AT_DATA - 32, t[256].len = 1, t[256].flags = D_WRITE, t[256].next = 0;
	guest_desc(&d.g, 5, AT_DATA - 0x10000, 257 * 16, D_INDIRECT, 0);
	guest_offer(&d.g, 5);
	guest_kick(&d.g);
	guest_take(&d.g, NULL);
	CHECK_EQ(*(uint8_t *)ram(AT_DATA - 32), S_IOERR);
	disk_close(&d);
}

static void size_max_kept(void)
{
	disk_make(&d, 16, 0, 2048, 0);
	d.config.size_max = 4096;
	disk_start(&d);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_OK);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096 + 512), S_IOERR);
	disk_close(&d);
}

static void outside_the_disk(void)
{
	uint8_t guard[4096];
	uint32_t used;

	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	CHECK(ftruncate(d.fd, 2048 * 512 + 4096) == 0);
	memset(guard, 0x5a, sizeof(guard));
	disk_poke(&d, 2048 * 512, guard, sizeof(guard));
	disk_start(&d);
	CHECK_EQ(disk_rw(&d, T_OUT, 2048, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, 2047, AT_DATA, 1024), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, UINT64_MAX, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, UINT64_MAX - 7, AT_DATA, 4096), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, 1ull << 55, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, (1ull << 55) + 2047, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_do(&d, (struct request){ T_IN, 2047, AT_DATA, 1024, true }, &used), S_IOERR);
	/* Nothing in front of the status was written, so nothing is claimed. */
	CHECK_EQ(used, 0);
	CHECK_EQ(disk_range(&d, T_DISCARD, 2047, 2, 0), S_IOERR);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 2048, 1, 1), S_IOERR);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, UINT64_MAX, 1, 0), S_IOERR);
	disk_peek(&d, 2048 * 512, guard, sizeof(guard));
	for (size_t i = 0; i < sizeof(guard); i++)
		CHECK_EQ(guard[i], 0x5a);
	CHECK_EQ(disk_stats(&d).errors, 10);
	CHECK_EQ(disk_stats(&d).last_errno, 0);
	disk_close(&d);
}

static void size_not_in_sectors(void)
{
	disk_open(&d);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 511), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 513), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 1), S_IOERR);
	disk_close(&d);
}

static void read_only(void)
{
	disk_make(&d, 16, 0, 2048, 0);
	d.config.flags |= BLK_RO;
	disk_start(&d);
	fill(ram(AT_DATA), 512, 1);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, 8, 0), S_IOERR);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 0, 8, 0), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 512), S_OK);
	CHECK(all_zero(ram(AT_DATA), 512));
	CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
	disk_close(&d);
}

static void unknown_types(void)
{
	uint32_t used;

	disk_make(&d, 16, 0, 2048, 0);
	d.config.flags = 0;
	disk_start(&d);
	CHECK_EQ(disk_do(&d, (struct request){ .type = 2 }, &used), S_UNSUPP);
	CHECK_EQ(used, 1);
	CHECK_EQ(disk_do(&d, (struct request){ .type = 14 }, NULL), S_UNSUPP);
	CHECK_EQ(disk_do(&d, (struct request){ .type = 0xffffffff }, NULL), S_UNSUPP);
	CHECK_EQ(disk_do(&d, (struct request){ .type = 0x80000000 }, NULL), S_UNSUPP);
	/* Not offered. */
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, 8, 0), S_UNSUPP);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 0, 8, 0), S_UNSUPP);
	CHECK_EQ(disk_stats(&d).unsupported, 6);
	disk_close(&d);
}

static void short_header(void)
{
	disk_open(&d);
	*(uint8_t *)ram(AT_DATA) = S_NONE;
	guest_desc(&d.g, 0, AT_DATA - 16, 15, D_NEXT, 1);
	guest_desc(&d.g, 1, AT_DATA, 1, D_WRITE, 0);
	guest_offer(&d.g, 0);
	guest_kick(&d.g);
	guest_take(&d.g, NULL);
	CHECK_EQ(*(uint8_t *)ram(AT_DATA), S_IOERR);
	/* None at all. */
	*(uint8_t *)ram(AT_DATA) = S_NONE;
	guest_offer(&d.g, 1);
	guest_kick(&d.g);
	guest_take(&d.g, NULL);
	CHECK_EQ(*(uint8_t *)ram(AT_DATA), S_IOERR);
	disk_close(&d);
}

static void get_id(void)
{
	uint32_t used;

	disk_open(&d);
	CHECK_EQ(disk_do(&d, (struct request){ T_GET_ID, 0, AT_DATA, 20, true }, &used), S_OK);
	CHECK_EQ(used, 21);
	CHECK(!memcmp(ram(AT_DATA), SERIAL, 20));
	memset(ram(AT_DATA), 0xaa, 64);
	CHECK_EQ(disk_do(&d, (struct request){ T_GET_ID, 0, AT_DATA, 5, true }, &used), S_OK);
	CHECK_EQ(used, 6);
	CHECK(!memcmp(ram(AT_DATA), "01234\xaa", 6));
	CHECK_EQ(disk_do(&d, (struct request){ T_GET_ID, 0, AT_DATA, 40, true }, &used), S_OK);
	CHECK_EQ(used, 20);
	CHECK(!memcmp(ram(AT_DATA), SERIAL "\xaa", 21));
	CHECK_EQ(disk_do(&d, (struct request){ T_GET_ID, 0, 0, 0, true }, &used), S_OK);
	CHECK_EQ(used, 1);
	disk_close(&d);
}

static long allocated(void)
{
	struct stat st;

	CHECK(fstat(d.fd, &st) == 0);
	return (long)st.st_blocks;
}

static void discard(void)
{
	long before;

	disk_open(&d);
	fill(ram(AT_DATA), 1 << 20, 9);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 1 << 20), S_OK);
	CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
	before = allocated();
	CHECK_EQ(disk_range(&d, T_DISCARD, 512, 1024, 0), S_OK);
	CHECK(allocated() <= before - 1000);
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, 0, 0), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 512 * 512), S_OK);
	CHECK(filled(ram(AT_DATA), 512 * 512, 9));
	/* The file keeps its size. */
	struct stat st;

	CHECK(fstat(d.fd, &st) == 0 && st.st_size == 1 << 20);
	disk_close(&d);
}

static void discard_rules(void)
{
	uint8_t *r;

	disk_make(&d, 16, 0, 1 << 18, 0);
	disk_start(&d);
	/* Flags: none is known for a discard, one for zeroes. */
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, 8, 1), S_UNSUPP);
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, 8, 2), S_UNSUPP);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 0, 8, 2), S_UNSUPP);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 0, 8, 0x80000001), S_UNSUPP);
	/* At most max_discard_sectors, and at most max_discard_seg ranges, whole ones. */
	CHECK_EQ(disk_range(&d, T_DISCARD, 0, (1 << 16) + 1, 0), S_IOERR);
	r = ram(AT_DATA);
	memset(r, 0, 16 * 6);
	for (int i = 0; i < 6; i++)
		r[16 * i] = (uint8_t)(8 * i), r[16 * i + 8] = 8;
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 64), S_OK);
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 80), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 0), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 15), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 17), S_IOERR);
	/* All ranges are looked at before the first is touched. */
	fill(ram(AT_DATA + 0x1000), 512, 4);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA + 0x1000, 512), S_OK);
	r[16 * 3 + 12] = 1;
	CHECK_EQ(disk_rw(&d, T_DISCARD, 0, AT_DATA, 64), S_UNSUPP);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA + 0x2000, 512), S_OK);
	CHECK(filled(ram(AT_DATA + 0x2000), 512, 4));
	disk_close(&d);
}

static void write_zeroes(void)
{
	long before;

	disk_open(&d);
	for (uint32_t unmap = 0; unmap < 2; unmap++) {
		fill(ram(AT_DATA), 1 << 20, 9);
		CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 1 << 20), S_OK);
		CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
		before = allocated();
		CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 3, 2000, unmap), S_OK);
		CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
		if (unmap)
			CHECK(allocated() < before - 1000);
		else
			CHECK(allocated() >= before);
		CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 1 << 20), S_OK);
		CHECK(filled(ram(AT_DATA), 3 * 512, 9));
		CHECK(all_zero(ram(AT_DATA + 3 * 512), 2000 * 512));
		CHECK(!all_zero(ram(AT_DATA + 2003 * 512), 512));
	}
	/* Several ranges, one of them empty. */
	fill(ram(AT_DATA), 1 << 20, 9);
	CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 1 << 20), S_OK);
	uint8_t *r = ram(AT_DATA);

	memset(r, 0, 48);
	r[0] = 1, r[8] = 1, r[16] = 9, r[32] = 5, r[40] = 2, r[44] = 1;
	CHECK_EQ(disk_rw(&d, T_WRITE_ZEROES, 0, AT_DATA, 48), S_OK);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 8192), S_OK);
	CHECK(!all_zero(ram(AT_DATA), 512));
	CHECK(all_zero(ram(AT_DATA + 512), 512));
	CHECK(filled(ram(AT_DATA), 512, 9));
	CHECK(!all_zero(ram(AT_DATA + 4 * 512), 512));
	CHECK(all_zero(ram(AT_DATA + 5 * 512), 1024));
	CHECK(!all_zero(ram(AT_DATA + 9 * 512), 512));
	disk_close(&d);
}

static void no_place_for_a_status(void)
{
	struct worker_stats before, after;

	disk_open(&d);
	guest_desc(&d.g, 0, AT_DATA, 16, 0, 0);
	guest_offer(&d.g, 0);
	guest_kick(&d.g);
	CHECK(event_wait(d.g.event_fd));
	CHECK_EQ(worker_error(d.worker), -EPROTO);
	CHECK(strstr(ring_error(d.g.ring), "status"));
	/* Parked: kicks do not wake it any more. */
	worker_get_stats(d.worker, &before);
	for (int i = 0; i < 3; i++) {
		CHECK(eventfd_write(d.g.kick_fd, 1) == 0);
		usleep(1000); /* nothing may happen */
	}
	worker_get_stats(d.worker, &after);
	CHECK_EQ(before.wakeups, after.wakeups);
	worker_stop(d.worker);
	CHECK_EQ(worker_error(d.worker), -EPROTO);
	disk_close(&d);
}

static void good_ones_before_a_broken_one(void)
{
	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	disk_start(&d);
	for (uint16_t i = 0; i < 4; i++) {
		disk_request(&d, 3 * i, (struct request){ T_OUT, i, AT_DATA, 512, false });
		guest_offer(&d.g, 3 * i);
	}
	guest_offer(&d.g, 99);
	guest_kick(&d.g);
	for (uint16_t i = 0; i < 4; i++)
		guest_take(&d.g, NULL);
	for (uint16_t i = 0; i < 4; i++)
		CHECK_EQ(*disk_status(&d, 3 * i), S_OK);
	CHECK(event_wait(d.g.event_fd));
	CHECK_EQ(worker_error(d.worker), -EPROTO);
	disk_close(&d);
}

/* As in a pause: it answers what it has, takes nothing until it goes on, and then what came meanwhile. */
static void a_worker_that_rests(void)
{
	disk_open(&d);
	for (uint16_t i = 0; i < 3; i++) {
		worker_hold(d.worker);
		disk_request(&d, 3 * i, (struct request){ T_OUT, i, AT_DATA, 512, false });
		guest_offer(&d.g, 3 * i);
		guest_kick(&d.g);
		usleep(5000); /* nothing may be answered */
		CHECK_EQ(*disk_status(&d, 3 * i), S_NONE);
		worker_go_on(d.worker);
		guest_take(&d.g, NULL);
		CHECK_EQ(*disk_status(&d, 3 * i), S_OK);
	}
	CHECK_EQ(worker_error(d.worker), 0);
	worker_hold(d.worker); /* and it ends while it rests */
	disk_close(&d);
}

/* Disks with an overlay. */

enum { OVERLAY_BITS = 4096, OVERLAY_DATA = 8192 };

static struct blk_overlay *overlay;
static int overlay_fd;

static void overlay_start(uint64_t sectors)
{
	char path[300];
	int err;

	disk_make(&d, 16, RING_EVENT_IDX | RING_INDIRECT, sectors, 0);
	fill(ram(AT_DATA), sectors * 512, 77);
	disk_poke(&d, 0, ram(AT_DATA), sectors * 512);
	/* Writing the image would be an error of the host's. */
	replace_image(d.path, O_RDONLY);
	snprintf(path, sizeof(path), "%s-overlay-XXXXXX", d.path);
	overlay_fd = mkstemp(path);
	CHECK(overlay_fd >= 0 && unlink(path) == 0);
	CHECK(ftruncate(overlay_fd, (off_t)(OVERLAY_DATA + sectors * 512)) == 0);
	overlay = blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_DATA, sectors * 512, &err);
	CHECK_EQ(err, 0);
	d.config.overlay = overlay;
	d.blk = blk_new(&d.config, &err);
	CHECK_EQ(err, 0);
	d.worker = blk_start(d.blk, d.g.ring, d.g.kick_fd, &d.g.irq, d.g.event_fd, &err);
	CHECK_EQ(err, 0);
}

/* All of it but the files. */
static void overlay_stop(void)
{
	worker_free(d.worker);
	blk_free(d.blk);
	blk_overlay_free(overlay);
}

/* The file as it is now, when its process was killed: what was not flushed is not known. */
static void overlay_killed(uint64_t sectors)
{
	int err;

	overlay_stop();
	overlay = blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_DATA, sectors * 512, &err);
	CHECK_EQ(err, 0);
	d.config.overlay = overlay;
	d.blk = blk_new(&d.config, &err);
	CHECK_EQ(err, 0);
	guest_close(&d.g);
	guest_open(&d.g, 16, RING_EVENT_IDX | RING_INDIRECT);
	d.worker = blk_start(d.blk, d.g.ring, d.g.kick_fd, &d.g.irq, d.g.event_fd, &err);
	CHECK_EQ(err, 0);
}

static void overlay_close(uint64_t sectors)
{
	uint8_t *image = malloc(sectors * 512);

	overlay_stop();
	disk_peek(&d, 0, image, sectors * 512);
	CHECK(filled(image, sectors * 512, 77));
	free(image);
	guest_close(&d.g);
	close(d.fd);
	close(overlay_fd);
	unlink(d.path);
}

static uint32_t below(uint32_t *state, uint32_t n)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % n;
}

/*
 * Random requests against a model: what the disk holds now, and what it held at the last flush. Its process is killed now and
 * then: a sector is then what it was at the flush, or what was written since.
 */
static void overlay_is_like_one_file(void)
{
	enum { SECTORS = 2045, MOST = 70, ROUNDS = 4000, AT_OUT = AT_DATA + 0x200000 };
	static uint8_t now[SECTORS * 512], flushed[SECTORS * 512], disk[SECTORS * 512];
	static bool unsure[SECTORS];
	uint32_t seed = 5, kills = 0;

	overlay_start(SECTORS);
	memcpy(now, ram(AT_DATA), sizeof(now));
	memcpy(flushed, now, sizeof(now));
	for (uint32_t round = 0; round < ROUNDS; round++) {
		uint32_t op = below(&seed, 100), n = below(&seed, below(&seed, 2) ? 9 : MOST) + 1;
		/* Often the same places, and often the end. */
		uint64_t sector = below(&seed, 3) ? below(&seed, SECTORS - n + 1) : SECTORS - n - below(&seed, 12);
		uint8_t *at = now + sector * 512;

		if (op < 45) {
			fill(ram(AT_DATA), n * 512, seed);
			CHECK_EQ(disk_rw(&d, T_OUT, sector, AT_DATA, n * 512), S_OK);
			memcpy(at, ram(AT_DATA), n * 512);
			memset(unsure + sector, 1, n);
		} else if (op < 75) {
			CHECK_EQ(disk_rw(&d, T_IN, sector, AT_OUT, n * 512), S_OK);
			CHECK(!memcmp(ram(AT_OUT), at, n * 512));
		} else if (op < 85) {
			CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, sector, n, op & 1), S_OK);
			memset(at, 0, n * 512);
			memset(unsure + sector, 1, n);
		} else if (op < 93) {
			CHECK_EQ(disk_range(&d, T_DISCARD, sector, n, 0), S_OK);
			CHECK_EQ(disk_rw(&d, T_IN, sector, AT_OUT, n * 512), S_OK);
			/* Each sector is what it was, or zero. */
			for (uint32_t i = 0; i < n; i++)
				CHECK(!memcmp(ram(AT_OUT + 512 * i), at + 512 * i, 512) || all_zero(ram(AT_OUT + 512 * i), 512));
			memcpy(at, ram(AT_OUT), n * 512);
			memset(unsure + sector, 1, n);
		} else if (op < 99) {
			CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
			memcpy(flushed, now, sizeof(now));
			memset(unsure, 0, sizeof(unsure));
		} else {
			kills++;
			overlay_killed(SECTORS);
			CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, sizeof(disk)), S_OK);
			memcpy(disk, ram(AT_DATA), sizeof(disk));
			for (uint32_t i = 0; i < SECTORS; i++)
				if (!unsure[i])
					CHECK(!memcmp(disk + 512 * i, flushed + 512 * i, 512));
			memcpy(now, disk, sizeof(now));
		}
	}
	CHECK(kills > 10);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, sizeof(now)), S_OK);
	CHECK(!memcmp(ram(AT_DATA), now, sizeof(now)));
	overlay_close(SECTORS);
}

static void overlay_writethrough(void)
{
	overlay_start(2048);
	/* In the cache, until the disk becomes writethrough. */
	fill(ram(AT_DATA), 4096, 1);
	CHECK_EQ(disk_rw(&d, T_OUT, 8, AT_DATA, 4096), S_OK);
	CHECK_EQ(blk_overlay_flush(overlay), 0);
	overlay_killed(2048);
	CHECK_EQ(disk_rw(&d, T_IN, 8, AT_DATA + 0x1000, 4096), S_OK);
	CHECK(filled(ram(AT_DATA + 0x1000), 4096, 1));
	/* Nothing needs a flush. */
	blk_set_writeback(d.blk, 0);
	fill(ram(AT_DATA), 512, 1);
	CHECK_EQ(disk_rw(&d, T_OUT, 100, AT_DATA, 512), S_OK);
	CHECK_EQ(disk_range(&d, T_WRITE_ZEROES, 203, 9, 1), S_OK);
	overlay_killed(2048);
	CHECK_EQ(disk_rw(&d, T_IN, 100, AT_DATA + 0x1000, 512), S_OK);
	CHECK(filled(ram(AT_DATA + 0x1000), 512, 1));
	CHECK_EQ(disk_rw(&d, T_IN, 203, AT_DATA + 0x1000, 9 * 512), S_OK);
	CHECK(all_zero(ram(AT_DATA + 0x1000), 9 * 512));
	overlay_close(2048);
}

static void overlay_only_takes_what_was_written(void)
{
	struct stat st;

	overlay_start(2048);
	CHECK_EQ(disk_rw(&d, T_IN, 0, AT_DATA, 1 << 20), S_OK);
	CHECK_EQ(disk_rw(&d, T_OUT, 8, AT_DATA, 65536), S_OK);
	CHECK_EQ(disk_range(&d, T_DISCARD, 1024, 1024, 0), S_OK);
	CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
	CHECK(fstat(overlay_fd, &st) == 0);
	CHECK(st.st_blocks <= (65536 + 4 * 4096) / 512);
	/* Discarded blocks are the image's no more. */
	CHECK_EQ(disk_rw(&d, T_IN, 1024, AT_DATA, 1024 * 512), S_OK);
	CHECK(all_zero(ram(AT_DATA), 1024 * 512));
	/* It keeps its size, whatever anybody says. */
	blk_set_capacity(d.blk, 1 << 20);
	CHECK_EQ(disk_rw(&d, T_IN, 2048, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, 2048, AT_DATA, 512), S_IOERR);
	overlay_close(2048);
}

static void overlay_faults(void)
{
	struct rlimit limit, before;
	uint8_t bits[4096];
	int err;

	overlay_start(2048);
	signal(SIGXFSZ, SIG_DFL);
	CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
	limit = (struct rlimit){ OVERLAY_DATA + 4096, before.rlim_max };
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	fill(ram(AT_DATA), 4096, 1);
	CHECK_EQ(disk_rw(&d, T_OUT, 8, AT_DATA, 4096), S_IOERR);
	CHECK_EQ(disk_stats(&d).last_errno, EFBIG);
	/* Not as much as a sector of it: the copy of the block's other sectors fails. */
	CHECK_EQ(disk_rw(&d, T_OUT, 17, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_IN, 8, AT_DATA + 0x1000, 4096), S_OK);
	CHECK(filled(ram(AT_DATA + 0x1000), 4096, 77 + 8 * 128));
	CHECK_EQ(disk_rw(&d, T_FLUSH, 0, 0, 0), S_OK);
	/* An image, and an overlay, that were truncated. */
	CHECK(truncate(d.path, 4096) == 0);
	CHECK_EQ(disk_rw(&d, T_IN, 100, AT_DATA, 512), S_IOERR);
	CHECK_EQ(disk_rw(&d, T_OUT, 3, AT_DATA, 512), S_OK);
	CHECK(ftruncate(overlay_fd, OVERLAY_DATA) == 0);
	CHECK_EQ(disk_rw(&d, T_IN, 3, AT_DATA, 512), S_IOERR);
	overlay_stop();
	/* Any bits are bits of this disk. */
	memset(bits, 0xff, sizeof(bits));
	CHECK(pwrite(overlay_fd, bits, sizeof(bits), OVERLAY_BITS) == sizeof(bits));
	overlay = blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_DATA, 512, &err);
	CHECK_EQ(err, 0);
	blk_overlay_free(overlay);
	CHECK(!blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_BITS, 512, &err));
	CHECK(!blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_DATA, 1ull << 46 | 512, &err));
	CHECK(!blk_overlay_new(overlay_fd, OVERLAY_BITS, OVERLAY_DATA, (1ull << 27) + 512, &err));
	CHECK(!blk_overlay_new(-1, OVERLAY_BITS, OVERLAY_DATA, 512, &err));
	guest_close(&d.g);
	close(d.fd);
	close(overlay_fd);
	unlink(d.path);
	CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(read_and_write), T(any_layout), T(many_segments), T(size_max_kept), T(outside_the_disk), T(size_not_in_sectors),
	T(read_only), T(unknown_types), T(short_header), T(get_id), T(discard), T(discard_rules), T(write_zeroes),
	T(writethrough), T(host_has_no_space), T(file_size_limit), T(image_shorter_than_the_disk), T(image_not_writable),
	T(resized), T(disk_config_refused), T(direct_512), T(direct_4096), T(no_place_for_a_status),
	T(good_ones_before_a_broken_one), T(a_worker_that_rests), T(overlay_is_like_one_file), T(overlay_writethrough),
	T(overlay_only_takes_what_was_written), T(overlay_faults), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
