// SPDX-License-Identifier: Apache-2.0
/* A disk whose file, file system or limits are not as one would wish. */
#include "test_blk.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct disk d;

void *ram(uint64_t gpa)
{
	return guest_ptr(&d.g, gpa);
}

void writethrough(void)
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
void host_has_no_space(void)
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

void file_size_limit(void)
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

void image_shorter_than_the_disk(void)
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

void image_not_writable(void)
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

void resized(void)
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

void disk_config_refused(void)
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

void direct_512(void)
{
	direct(512);
}

void direct_4096(void)
{
	direct(4096);
}
