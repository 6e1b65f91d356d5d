/*
 * usage: zeroout zero|discard DEVICE [OFFSET LENGTH]
 *
 * Has a range of a block device (in bytes; all of it, without) written with zeros or discarded. The kernel sends the
 * device a request for that where it takes one; of others it refuses to discard, and writes pages of zeros to them.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	uint64_t range[2];
	int fd, zero;

	if ((argc != 3 && argc != 5) || (strcmp(argv[1], "zero") && strcmp(argv[1], "discard"))) {
		fprintf(stderr, "usage: zeroout zero|discard DEVICE [OFFSET LENGTH]\n");
		return 2;
	}
	zero = !strcmp(argv[1], "zero");
	fd = open(argv[2], O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror(argv[2]);
		return 1;
	}
	range[0] = argc == 5 ? strtoull(argv[3], NULL, 0) : 0;
	range[1] = argc == 5 ? strtoull(argv[4], NULL, 0) : (uint64_t)lseek(fd, 0, SEEK_END);
	if (ioctl(fd, zero ? BLKZEROOUT : BLKDISCARD, range)) {
		perror(zero ? "BLKZEROOUT" : "BLKDISCARD");
		return 1;
	}
	return 0;
}
