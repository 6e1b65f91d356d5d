/*
 * usage: fs_count flock|fcntl FILE TIMES
 *
 * Adds one to the number in FILE so many times. Reading and writing it are two steps, with a pause between them: only the
 * lock, of the one kind or the other, keeps others out. With 0 times: takes the lock without waiting; status 3 when somebody
 * else has it, otherwise says "locked" and holds it until standard input ends.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int change(int fd, int by_flock, int wait, int give_back)
{
	struct flock lock = { .l_type = give_back ? F_UNLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (by_flock)
		return flock(fd, (give_back ? LOCK_UN : LOCK_EX) | (wait ? 0 : LOCK_NB));
	return fcntl(fd, wait ? F_SETLKW : F_SETLK, &lock);
}

int main(int argc, char **argv)
{
	int fd, by_flock, times;
	char text[32];
	ssize_t n;

	if (argc != 4)
		return 2;
	by_flock = !strcmp(argv[1], "flock");
	times = atoi(argv[3]);
	fd = open(argv[2], O_RDWR | O_CREAT, 0644);
	if (fd < 0)
		return 1;
	if (times == 0) {
		if (change(fd, by_flock, 0, 0))
			return 3;
		puts("locked");
		fflush(stdout);
		while (read(0, text, sizeof(text)) > 0)
			;
		return 0;
	}
	while (times--) {
		if (change(fd, by_flock, 1, 0))
			return 1;
		n = pread(fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? n : 0] = 0;
		usleep(1000); /* the pause in which another could come */
		n = snprintf(text, sizeof(text), "%d\n", atoi(text) + 1);
		if (pwrite(fd, text, (size_t)n, 0) != n || change(fd, by_flock, 1, 1))
			return 1;
	}
	return 0;
}
