/* SPDX-License-Identifier: Apache-2.0 */
/* A guest with a virtio-blk disk. ENGINE (sync, uring, auto) and DIR in the environment say how and where. */
#ifndef TESTS_NATIVE_DISK_H
#define TESTS_NATIVE_DISK_H

#include "blk/blk.h"
#include "guest.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };
enum { EXIT_SKIPPED = 77 };
#define SERIAL "0123456789abcdefghij"

struct disk {
	struct guest g;
	struct blk *blk;
	struct worker *worker;
	int fd;
	char path[256];
	struct blk_config config;
};

struct request {
	uint32_t type;
	uint64_t sector;
	uint64_t data; /* gpa */
	uint32_t len;
	bool to_guest;
};

/* An image of so many sectors, zero, open with these additional open flags; the disk is not started. */
void disk_make(struct disk *d, uint32_t queue_size, uint32_t ring_flags, uint64_t sectors, int open_flags);
void disk_start(struct disk *d);
/* The usual: a queue of 16 with EVENT_IDX and INDIRECT, 1 MiB, started. */
void disk_open(struct disk *d);
void disk_close(struct disk *d);
/* Write a request into three descriptors from head on: header, data (none when len is 0), status. */
void disk_request(struct disk *d, uint16_t head, struct request r);
/* The status byte of that request: S_NONE until it is answered. */
uint8_t *disk_status(struct disk *d, uint16_t head);
/* One request from beginning to end; returns the status, *used the used length. */
uint8_t disk_do(struct disk *d, struct request r, uint32_t *used);
uint8_t disk_rw(struct disk *d, uint32_t type, uint64_t sector, uint64_t data, uint32_t len);
struct blk_stats disk_stats(struct disk *d);
/* DISCARD or WRITE_ZEROES of one range. */
uint8_t disk_range(struct disk *d, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags);
/* Bytes of the file itself. */
void disk_peek(struct disk *d, uint64_t offset, void *to, size_t len);
void disk_poke(struct disk *d, uint64_t offset, const void *from, size_t len);
const char *disk_engine(void);
/* Fill with bytes that depend on the position and a seed; and compare. */
void fill(void *p, size_t len, uint32_t seed);
bool filled(const void *p, size_t len, uint32_t seed);
bool all_zero(const void *p, size_t len);

#endif
