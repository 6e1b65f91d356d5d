// Ends with 0 when it could lock the file, 1 when somebody else has: lock PATH. The busybox of an image has no flock.

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

int main(int argc, char **argv)
{
	int file = argc == 2 ? open(argv[1], O_RDONLY) : -1;

	if (file < 0) {
		perror("lock");
		return 2;
	}
	return flock(file, LOCK_EX | LOCK_NB) ? 1 : 0;
}
