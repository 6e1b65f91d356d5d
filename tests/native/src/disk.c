// SPDX-License-Identifier: Apache-2.0
#include "disk.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

enum { HEADERS = AT_DATA - 0x80000, STATUS = AT_DATA - 0x40000 };

const char *disk_engine(void)
{
	const char *engine = getenv("ENGINE");

	return engine ? engine : "auto";
}

void fill(void *p, size_t len, uint32_t seed)
{
	uint32_t *w = p;

	for (size_t i = 0; i < len / 4; i++)
		w[i] = (seed + (uint32_t)i) * 2654435761u;
}

bool filled(const void *p, size_t len, uint32_t seed)
{
	const uint32_t *w = p;

	for (size_t i = 0; i < len / 4; i++)
		if (w[i] != (seed + (uint32_t)i) * 2654435761u)
			return false;
	return true;
}

bool all_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < len; i++)
		if (b[i])
			return false;
	return true;
}

void disk_make(struct disk *d, uint32_t queue_size, uint32_t ring_flags, uint64_t sectors, int open_flags)
{
	const char *dir = getenv("DIR");

	memset(d, 0, sizeof(*d));
	guest_open(&d->g, queue_size, ring_flags);
	snprintf(d->path, sizeof(d->path), "%s/pyvmm-native-XXXXXX", dir ? dir : "/tmp");
	d->fd = mkstemp(d->path);
	CHECK(d->fd >= 0);
	CHECK(ftruncate(d->fd, (off_t)(sectors * 512)) == 0);
	if (open_flags) {
		close(d->fd);
		d->fd = open(d->path, O_RDWR | O_CLOEXEC | open_flags);
		if (d->fd < 0) {
			printf("cannot open %s with these flags: %s\n", d->path, strerror(errno));
			unlink(d->path);
			exit(EXIT_SKIPPED);
		}
	}
	d->config = (struct blk_config){
		.fd = d->fd,
		.flags = BLK_DISCARD | BLK_WRITE_ZEROES,
		.capacity = sectors,
		.seg_max = 254,
		.max_discard_sectors = 1 << 16,
		.max_discard_seg = 4,
		.alignment = 1,
	};
	memcpy(d->config.serial, SERIAL, sizeof(d->config.serial));
}

static bool uring_allowed(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(4, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

void disk_start(struct disk *d)
{
	const char *engine = disk_engine();
	int err;

	if (!strcmp(engine, "uring") && !uring_allowed()) {
		printf("this host does not allow io_uring\n");
		unlink(d->path);
		exit(EXIT_SKIPPED);
	}
	if (!strcmp(engine, "sync"))
		d->config.flags |= BLK_NO_URING;
	else if (!strcmp(engine, "uring"))
		d->config.flags |= BLK_URING;
	d->blk = blk_new(&d->config, &err);
	CHECK_EQ(err, 0);
	d->worker = blk_start(d->blk, d->g.ring, d->g.kick_fd, &d->g.irq, d->g.event_fd, &err);
	CHECK_EQ(err, 0);
	/* The ring is made by the first request. */
	if (!strcmp(engine, "uring")) {
		disk_do(d, (struct request){ .type = T_FLUSH }, NULL);
		CHECK(disk_stats(d).uring);
	}
}

void disk_open(struct disk *d)
{
	disk_make(d, 16, RING_EVENT_IDX | RING_INDIRECT, 2048, 0);
	disk_start(d);
}

void disk_close(struct disk *d)
{
	worker_free(d->worker);
	blk_free(d->blk);
	guest_close(&d->g);
	close(d->fd);
	unlink(d->path);
}

uint8_t *disk_status(struct disk *d, uint16_t head)
{
	return guest_ptr(&d->g, STATUS + head);
}

void disk_request(struct disk *d, uint16_t head, struct request r)
{
	uint64_t header = HEADERS + 16u * head;
	uint32_t type[2] = { r.type, 0 };
	uint16_t at = head;

	memcpy(guest_ptr(&d->g, header), type, 8);
	memcpy(guest_ptr(&d->g, header + 8), &r.sector, 8);
	*disk_status(d, head) = S_NONE;
	guest_desc(&d->g, at, header, 16, D_NEXT, at + 1);
	at++;
	if (r.len) {
		guest_desc(&d->g, at, r.data, r.len, D_NEXT | (r.to_guest ? D_WRITE : 0), at + 1);
		at++;
	}
	guest_desc(&d->g, at, STATUS + head, 1, D_WRITE, 0);
}

uint8_t disk_do(struct disk *d, struct request r, uint32_t *used)
{
	disk_request(d, 0, r);
	guest_offer(&d->g, 0);
	guest_kick(&d->g);
	CHECK_EQ(guest_take(&d->g, used), 0);
	return *disk_status(d, 0);
}

uint8_t disk_rw(struct disk *d, uint32_t type, uint64_t sector, uint64_t data, uint32_t len)
{
	return disk_do(d, (struct request){ type, sector, data, len, type == T_IN || type == T_GET_ID }, NULL);
}

uint8_t disk_range(struct disk *d, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	const uint64_t at = AT_DATA - 0x1000;
	uint32_t rest[2] = { n, flags };

	memcpy(guest_ptr(&d->g, at), &sector, 8);
	memcpy(guest_ptr(&d->g, at + 8), rest, 8);
	return disk_do(d, (struct request){ type, 0, at, 16, false }, NULL);
}

struct blk_stats disk_stats(struct disk *d)
{
	struct blk_stats s;

	blk_get_stats(d->blk, &s);
	return s;
}

/* By another descriptor: the disk's may be for direct I/O. */
void disk_peek(struct disk *d, uint64_t offset, void *to, size_t len)
{
	int fd = open(d->path, O_RDONLY | O_CLOEXEC);

	CHECK(pread(fd, to, len, (off_t)offset) == (ssize_t)len);
	close(fd);
}

void disk_poke(struct disk *d, uint64_t offset, const void *from, size_t len)
{
	int fd = open(d->path, O_WRONLY | O_CLOEXEC);

	CHECK(pwrite(fd, from, len, (off_t)offset) == (ssize_t)len);
	CHECK(fsync(fd) == 0);
	close(fd);
}
