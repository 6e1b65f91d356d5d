/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapfile FILE SIZE: map SIZE bytes of FILE, readable and writable, and do what lines on stdin say:
 *   r OFFSET         print the byte there, in hex
 *   w OFFSET VALUE   write it
 *   s                print the sum of all bytes
 *   q                end
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	char line[128], what;
	unsigned long offset, value, size, sum;
	volatile unsigned char *map;
	int fd;

	if (argc != 3)
		return 2;
	size = strtoul(argv[2], NULL, 0);
	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		fd = open(argv[1], O_RDONLY);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	if (mprotect((void *)map, size, PROT_READ | PROT_WRITE))
		fprintf(stderr, "read-only\n");
	setvbuf(stdout, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		offset = value = 0;
		if (sscanf(line, "%c %lu %lu", &what, &offset, &value) < 1 || what == 'q')
			break;
		if (what == 'r') {
			printf("%02x\n", map[offset]);
		} else if (what == 'w') {
			map[offset] = (unsigned char)value;
		} else if (what == 's') {
			sum = 0;
			for (offset = 0; offset < size; offset++)
				sum += map[offset];
			printf("%lu\n", sum);
		}
	}
	return 0;
}
