// SPDX-License-Identifier: Apache-2.0
/* Prints what names lead to, and whether there is more memory, if the host's kernel executes the calls itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *what, const char *name, long result)
{
	char line[256];
	int size = snprintf(line, sizeof(line), "%s %s: %s\n", what, name, result < 0 ? "nothing" : "something");

	if (write(1, line, (size_t)size) < 0)
		return;
}

/* Calls that change nothing. */
static void look(const char *name)
{
	struct stat stat;
	char target[256];

	show("stat", name, syscall(SYS_newfstatat, AT_FDCWD, name, &stat, AT_SYMLINK_NOFOLLOW));
	show("open", name, syscall(SYS_openat, AT_FDCWD, name, O_RDONLY));
	show("access", name, syscall(SYS_faccessat, AT_FDCWD, name, F_OK));
	show("link", name, syscall(SYS_readlink, name, target, sizeof(target)));
}

/* The argument is a directory of the host with a file and a directory. */
int main(int argc, char **argv)
{
	static const char *const names[] = { "/etc/passwd", "/proc/self/exe", "/proc/1", "/dev/null", "/tmp", "0" };
	char file[256], directory[256], new[256];
	void *memory;

	if (argc != 2)
		return 1;
	snprintf(file, sizeof(file), "%s/file", argv[1]);
	snprintf(directory, sizeof(directory), "%s/directory", argv[1]);
	snprintf(new, sizeof(new), "%s/new", argv[1]);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		look(names[i]);
	look(file);
	show("create", "new", syscall(SYS_open, new, O_CREAT | O_WRONLY | O_EXCL, 0600));
	show("mkdir", "new", syscall(SYS_mkdir, new, 0700));
	show("rename", "file", syscall(SYS_rename, file, new));
	show("unlink", "file", syscall(SYS_unlink, file));
	show("rmdir", "directory", syscall(SYS_rmdir, directory));
	show("mkdir", "here", syscall(SYS_mkdir, "new", 0700));
	show("file", "here", syscall(SYS_openat, AT_FDCWD, ".", O_TMPFILE | O_RDWR, 0600));
	memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	show("map", "memory", memory == MAP_FAILED ? -1 : 0);
	return 0;
}
