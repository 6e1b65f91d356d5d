// What the busybox of an image lacks: `connect PATH` prints what comes from a unix socket, until its end; `lock PATH` ends with
// 0 when it could lock the file, with 1 when somebody else has. The name that it is called by says which.

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int print_from(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[256];
	ssize_t size;
	int sock = socket(AF_UNIX, SOCK_STREAM, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		return 2;
	memcpy(address.sun_path, path, strlen(path));
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
		perror(path);
		return 1;
	}
	while ((size = read(sock, text, sizeof(text))) > 0)
		fwrite(text, 1, (size_t)size, stdout);
	return size < 0;
}

static int try_lock(const char *path)
{
	int file = open(path, O_RDONLY);

	if (file < 0) {
		perror(path);
		return 2;
	}
	return flock(file, LOCK_EX | LOCK_NB) ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	return strcmp(basename(argv[0]), "lock") ? print_from(argv[1]) : try_lock(argv[1]);
}
