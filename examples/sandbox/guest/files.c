// SPDX-License-Identifier: Apache-2.0
/* One file or directory: its content, its attributes, its name. */
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int write_all(int fd, const char *from, size_t size)
{
	while (size) {
		ssize_t done = write(fd, from, size);

		if (done < 0 && errno != EINTR)
			return errno;
		if (done > 0) {
			from += done;
			size -= (size_t)done;
		}
	}
	return 0;
}

int copy_bytes(int from, int to, uint64_t most)
{
	static char buffer[PIPE_ROOM];

	while (most) {
		ssize_t got = read(from, buffer, most < sizeof(buffer) ? most : sizeof(buffer));
		int error;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? errno : 0;
		error = write_all(to, buffer, (size_t)got);
		if (error)
			return error;
		most -= (uint64_t)got;
	}
	return 0;
}

int read_exactly(void *to, size_t size)
{
	for (char *at = to; size;) {
		ssize_t got = read(0, at, size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? errno : EPIPE;
		at += got;
		size -= (size_t)got;
	}
	return 0;
}

int make_parents(const char *path)
{
	char copy[PATH_MAX];

	if (strlen(path) >= sizeof(copy))
		return ENAMETOOLONG;
	strcpy(copy, path);
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755) && errno != EEXIST)
			return errno;
		*slash = '/';
	}
	return 0;
}

/*
 * read PATH [MOST]: its content on standard output; EFBIG: it is a file with more than MOST bytes. give PATH SLOT: the
 * same of a file, through a window.
 */
static int send_file(char **argv, size_t most, size_t slot)
{
	struct stat status;
	int fd = open(argv[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &status))
		return errno;
	if (S_ISDIR(status.st_mode))
		return EISDIR;
	if (S_ISREG(status.st_mode) && (uint64_t)status.st_size > most)
		return EFBIG;
	return slot ? window_send(fd, slot) : copy_bytes(fd, 1, UINT64_MAX);
}

int box_read(int argc, char **argv)
{
	return send_file(argv, argc > 1 ? strtoul(argv[1], NULL, 10) : SIZE_MAX, 0);
}

int box_give(int argc, char **argv)
{
	(void)argc;
	return send_file(argv, SIZE_MAX, strtoul(argv[1], NULL, 10));
}

static int receive_file(char **argv, size_t slot, off_t whole)
{
	char path[PATH_MAX], made[PATH_MAX + 32], *slash;
	unsigned int mode = (unsigned int)strtoul(argv[1], NULL, 8);
	struct stat old;
	int error = make_parents(argv[0]), fd;

	if (error)
		return error;
	if (!realpath(argv[0], path)) {
		if (errno != ENOENT)
			return errno;
		strcpy(path, argv[0]); /* make_parents() has checked its length */
	} else if (!stat(path, &old)) {
		if (!S_ISREG(old.st_mode))
			return S_ISDIR(old.st_mode) ? EISDIR : EINVAL;
		mode = old.st_mode & 07777;
	}
	slash = strrchr(path, '/');
	snprintf(made, sizeof(made), "%.*s/" UNFINISHED "XXXXXX", (int)(slash - path), path);
	fd = mkostemp(made, O_CLOEXEC);
	if (fd < 0)
		return errno;
	error = slot ? window_receive(fd, slot, whole) : copy_bytes(0, fd, UINT64_MAX);
	if (!error && (fchmod(fd, mode) || fsync(fd)))
		error = errno;
	close(fd); /* before it has its name, for those who watch */
	if (!error && rename(made, path))
		error = errno;
	if (error)
		unlink(made);
	return error;
}

/*
 * write PATH MODE: standard input becomes its content, as a whole or not at all, and is on the disk when this ends. A
 * file that is there keeps its permissions; a link stays one. take PATH MODE SLOT SIZE: the same
 * through a window.
 */
int box_write(int argc, char **argv)
{
	(void)argc;
	return receive_file(argv, 0, 0);
}

int box_take(int argc, char **argv)
{
	(void)argc;
	return receive_file(argv, strtoul(argv[2], NULL, 10), strtol(argv[3], NULL, 10));
}

static char type_of(mode_t mode)
{
	return S_ISREG(mode) ? 'f' : S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : 'o';
}

static void put_record(const char *path, const struct stat *status)
{
	char target[PATH_MAX] = "";
	ssize_t size = S_ISLNK(status->st_mode) ? readlink(path, target, sizeof(target) - 1) : 0;

	target[size < 0 ? 0 : size] = '\0';
	printf("%s%c%c%c%lld%c%o%c%u%c%u%c%lld.%09ld%c%s%c", path, 0, type_of(status->st_mode), 0,
	       (long long)status->st_size, 0, status->st_mode & 07777, 0, status->st_uid, 0, status->st_gid, 0,
	       (long long)status->st_mtim.tv_sec, status->st_mtim.tv_nsec, 0, target, 0);
}

/*
 * list PATH DEPTH: a record for each entry down to DEPTH; 0: for PATH itself.  Fields: path, type (f d l o), size, mode,
 * uid, gid, time, target of a link.
 */
int box_list(int argc, char **argv)
{
	char *paths[] = { argv[0], NULL };
	long depth = strtol(argv[1], NULL, 10);
	struct stat status;
	FTSENT *entry;
	FTS *fts;

	(void)argc;
	if (lstat(argv[0], &status))
		return errno;
	if (!depth) {
		put_record(argv[0], &status);
		return fflush(stdout) ? errno : 0;
	}
	if (stat(argv[0], &status))
		return errno;
	if (!S_ISDIR(status.st_mode))
		return ENOTDIR;
	fts = fts_open(paths, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, NULL);
	while (fts && (entry = fts_read(fts))) {
		if (entry->fts_level > 0 && entry->fts_info != FTS_DP && entry->fts_info != FTS_NS)
			put_record(entry->fts_path, entry->fts_statp);
		if (entry->fts_level >= depth && entry->fts_info == FTS_D)
			fts_set(fts, entry, FTS_SKIP);
	}
	if (fts)
		fts_close(fts);
	return fflush(stdout) ? errno : 0;
}

int remove_tree(const char *path)
{
	char *paths[] = { (char *)path, NULL };
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;
	int error = fts ? 0 : errno;

	while (fts && (entry = fts_read(fts))) {
		bool directory = entry->fts_info == FTS_DP;

		if (entry->fts_info == FTS_D)
			continue;
		if ((directory ? rmdir(entry->fts_accpath) : unlink(entry->fts_accpath)) && !error)
			error = errno;
	}
	if (fts)
		fts_close(fts);
	return error;
}

/* remove PATH: with all that is below it. */
int box_remove(int argc, char **argv)
{
	(void)argc;
	return remove_tree(argv[0]);
}

/* move FROM TO */
int box_move(int argc, char **argv)
{
	int error = make_parents(argv[1]);

	(void)argc;
	return error ? error : rename(argv[0], argv[1]) ? errno : 0;
}

/* mkdir PATH: with its parents. It can be there already. */
int box_mkdir(int argc, char **argv)
{
	struct stat status;
	int error = make_parents(argv[0]);

	(void)argc;
	if (error || !mkdir(argv[0], 0755))
		return error;
	if (errno != EEXIST)
		return errno;
	return !stat(argv[0], &status) && S_ISDIR(status.st_mode) ? 0 : ENOTDIR;
}
