// SPDX-License-Identifier: Apache-2.0
/*
 * fileio JOB FILE BYTES: move the first BYTES of FILE, each once, and print the nanoseconds that it took.
 *
 *   read     in pieces of 1 MiB, from the beginning to the end
 *   write    the same; the file keeps its length
 *   random   pages of 4 KiB, in an order that looks like chance
 *   map      through a mapping, eight bytes at a time
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20, PAGE = 4096 };

static char buf[PIECE];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void move(int fd, int writes, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += PIECE) {
		ssize_t n = writes ? pwrite(fd, buf, PIECE, (off_t)at) : pread(fd, buf, PIECE, (off_t)at);

		if (n != PIECE)
			die("short");
	}
}

/* BYTES are a power of two, so that each page comes once. */
static void jump(int fd, uint64_t bytes)
{
	uint64_t pages = bytes / PAGE, page = 0;

	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (uint64_t i = 0; i < pages; i++) {
		if (pread(fd, buf, PAGE, (off_t)(page * PAGE)) != PAGE)
			die("short");
		/* A linear congruential generator of full period (Hull and Dobell). */
		page = (page * 1664525 + 1013904223) % pages;
	}
}

static void look(int fd, uint64_t bytes)
{
	volatile uint64_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t sum = 0;

	if (map == MAP_FAILED)
		die("mmap");
	for (uint64_t i = 0; i < bytes / sizeof(*map); i++)
		sum += map[i];
	memcpy(buf, &sum, sizeof(sum));
}

int main(int argc, char **argv)
{
	const char *job = argc == 4 ? argv[1] : "";
	uint64_t start, bytes;
	int fd;

	if (argc != 4) {
		fputs("usage: fileio read|write|random|map FILE BYTES\n", stderr);
		return 2;
	}
	bytes = strtoull(argv[3], NULL, 10);
	fd = open(argv[2], strcmp(job, "write") ? O_RDONLY : O_WRONLY);
	if (fd < 0)
		die(argv[2]);
	start = now_ns();
	if (!strcmp(job, "random"))
		jump(fd, bytes);
	else if (!strcmp(job, "map"))
		look(fd, bytes);
	else
		move(fd, !strcmp(job, "write"), bytes);
	printf("%llu\n", (unsigned long long)(now_ns() - start));
	return 0;
}
