/*
 * usage: fs_churn SEED COUNT DIRECTORY...
 *
 * COUNT random operations in and around these directories: files, directories and links are made, written, renamed, cut,
 * mapped, removed, some of them while they are held open. The same SEED does the same to the same tree, so that two
 * runs can be compared: each operation and its result is a line on stdout.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HELD = 6, BIGGEST = 40000, PATH = 512 };

static uint64_t state;
static int held[HELD];
static char **roots;
static int nroots;
static uint8_t buf[BIGGEST];

static uint32_t pick(uint32_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % n;
}

/* A path below one of the directories, of few names, so that what one operation makes the next ones find. */
static const char *path(char *to)
{
	static const char *const names[] = { "a", "b", "c", "low", "low-link", "p", "q", "sub", "vol" };
	size_t at = (size_t)snprintf(to, PATH, "%s", roots[pick((uint32_t)nroots)]);

	for (uint32_t depth = 1 + pick(3) / 2 + pick(5) / 4; depth; depth--)
		at += (size_t)snprintf(to + at, PATH - at, "/%s", names[pick(sizeof(names) / sizeof(*names))]);
	return to;
}

static void fill(size_t n, uint8_t seed)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint8_t)(seed + i * 7);
}

static uint32_t sum(const uint8_t *at, size_t n)
{
	uint32_t h = 2166136261u;

	while (n--)
		h = (h ^ *at++) * 16777619u;
	return h;
}

/* How an operation ended: what it returned, or its errno. */
static void say(long n, const char *what, const char *a, const char *b, long result)
{
	if (result < 0)
		printf("%ld %s %s %s: %s\n", n, what, a, b, strerrorname_np(errno));
	else
		printf("%ld %s %s %s: %ld\n", n, what, a, b, result);
}

static long write_some(int fd)
{
	size_t n = pick(BIGGEST);
	off_t at = pick(BIGGEST);

	fill(n, (uint8_t)pick(256));
	return pwrite(fd, buf, n, at);
}

static long read_all(int fd)
{
	long n = pread(fd, buf, sizeof(buf), 0);

	return n < 0 ? n : (long)sum(buf, (size_t)n);
}

static long map_some(int fd, int writable)
{
	struct stat st;
	uint8_t *at;
	long result;

	if (fstat(fd, &st) < 0)
		return -1;
	if (st.st_size == 0 || !S_ISREG(st.st_mode))
		return 0;
	at = mmap(NULL, (size_t)st.st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -1;
	if (writable)
		for (int i = 0; i < 8; i++)
			at[pick((uint32_t)st.st_size)] = (uint8_t)pick(256);
	result = (long)sum(at, (size_t)st.st_size);
	munmap(at, (size_t)st.st_size);
	return result;
}

/* With an open file: 0 to write, 1 to read, 2 and 3 to map. */
static long with_file(const char *name, int flags, uint32_t how)
{
	int fd = open(name, flags | O_NOFOLLOW | O_NONBLOCK, 0640);
	long result;

	if (fd < 0)
		return -1;
	result = how == 0 ? write_some(fd) : how == 1 ? read_all(fd) : map_some(fd, how == 3);
	close(fd);
	return result;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static long list(const char *name)
{
	struct dirent *entry;
	DIR *dir = opendir(name);
	char *names[256];
	size_t n = 0;
	uint32_t h = 0;

	if (!dir)
		return -1;
	while (n < 256 && (entry = readdir(dir)))
		names[n++] = strdup(entry->d_name);
	closedir(dir);
	qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++) {
		h = h * 31 + sum((const uint8_t *)names[i], strlen(names[i]));
		free(names[i]);
	}
	return (long)h;
}

static long look(const char *name)
{
	struct stat st;

	if (lstat(name, &st) < 0)
		return -1;
	/* A directory's links and size are its file system's affair. */
	return S_ISDIR(st.st_mode) ? (long)st.st_mode : (long)(st.st_mode | (uint64_t)st.st_nlink << 20 | (uint64_t)st.st_size << 32);
}

/* Files that stay open, whatever becomes of their names. */
static void hold(long n)
{
	uint32_t slot = pick(HELD), what = pick(4);
	char a[PATH], text[16];
	long result;

	snprintf(text, sizeof(text), "%u", slot);
	if (held[slot] < 0 || what == 0) {
		if (held[slot] >= 0)
			close(held[slot]);
		path(a);
		held[slot] = open(a, (pick(2) ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK);
		say(n, "hold", a, text, held[slot] < 0 ? -1 : 0);
		return;
	}
	result = what == 1 ? write_some(held[slot]) : what == 2 ? read_all(held[slot]) : ftruncate(held[slot], pick(BIGGEST));
	say(n, what == 1 ? "held-write" : what == 2 ? "held-read" : "held-cut", text, "", result);
}

static void operate(long n)
{
	char a[PATH], b[PATH];
	uint32_t what = pick(100);

	path(a);
	path(b);
	if (what < 14)
		say(n, "write", a, "", with_file(a, O_RDWR | O_CREAT, 0));
	else if (what < 18)
		say(n, "anew", a, "", with_file(a, O_RDWR | O_CREAT | O_TRUNC, 0));
	else if (what < 28)
		say(n, "read", a, "", with_file(a, O_RDONLY, 1));
	else if (what < 32)
		say(n, "map", a, "", with_file(a, O_RDONLY, 2));
	else if (what < 37)
		say(n, "map-write", a, "", with_file(a, O_RDWR, 3));
	else if (what < 45)
		say(n, "unlink", a, "", unlink(a));
	else if (what < 54)
		say(n, "mkdir", a, "", mkdir(a, 0755));
	else if (what < 58)
		say(n, "rmdir", a, "", rmdir(a));
	else if (what < 68)
		say(n, "rename", a, b, rename(a, b));
	else if (what < 70)
		say(n, "exchange", a, b, renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE));
	else if (what < 75)
		say(n, "link", a, b, link(a, b));
	else if (what < 78)
		say(n, "symlink", a, b, symlink(a, b));
	else if (what < 81)
		say(n, "chmod", a, "", chmod(a, 0700 | pick(64)));
	else if (what < 84)
		say(n, "truncate", a, "", truncate(a, pick(BIGGEST)));
	else if (what < 87)
		say(n, "list", a, "", list(a));
	else if (what < 92)
		say(n, "look", a, "", look(a));
	else
		hold(n);
}

int main(int argc, char **argv)
{
	long count;

	if (argc < 4) {
		fprintf(stderr, "usage: fs_churn SEED COUNT DIRECTORY...\n");
		return 2;
	}
	state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15u | 1;
	count = strtol(argv[2], NULL, 10);
	roots = argv + 3;
	nroots = argc - 3;
	umask(022);
	for (int i = 0; i < HELD; i++)
		held[i] = -1;
	for (int i = 0; i < 10; i++)
		pick(1);
	for (long n = 0; n < count; n++)
		operate(n);
	return 0;
}
