/*
 * usage: records DEVICE NAME flush|direct
 *
 * Writes record after record to a block device and says "NAMEn" when record n, counted from 1, must be on the disk:
 * after a flush, or after a write that bypasses the cache of this kernel, for a disk that has none of its own. Record n
 * is block n of 4096 bytes, and is its number in so many digits. Ends when the device is full.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD = 4096 };

static int fail(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	static char record[RECORD + 1] __attribute__((aligned(RECORD)));
	char line[64];
	int fd, direct;
	off_t end;

	if (argc != 4 || (strcmp(argv[3], "flush") && strcmp(argv[3], "direct"))) {
		fprintf(stderr, "usage: records DEVICE NAME flush|direct\n");
		return 2;
	}
	direct = !strcmp(argv[3], "direct");
	fd = open(argv[1], O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
	if (fd < 0)
		return fail(argv[1]);
	end = lseek(fd, 0, SEEK_END);
	for (off_t n = 1; (n + 1) * RECORD <= end; n++) {
		snprintf(record, sizeof(record), "%0*lld", RECORD, (long long)n);
		errno = EIO; /* for a write that is only short */
		if (pwrite(fd, record, RECORD, n * RECORD) != RECORD)
			return fail("write");
		if (!direct && fdatasync(fd))
			return fail("fdatasync");
		/* In one piece: other processes write to the same terminal */
		int length = snprintf(line, sizeof(line), "%s%lld\n", argv[2], (long long)n);
		if (write(STDOUT_FILENO, line, length) != length)
			return fail("standard output");
	}
	return 0;
}
