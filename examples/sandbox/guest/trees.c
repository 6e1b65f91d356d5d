// SPDX-License-Identifier: Apache-2.0
/*
 * Whole directories, as a stream of records: type, mode (octal), size, path relative to the directory; then the bytes of
 * a file, or the target of a link.  The last record has the type '.'.
 */
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int get_file(const char *path, const char *name, const struct stat *status)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), error;
	struct stat now;

	if (fd < 0 || fstat(fd, &now)) {
		close(fd);
		return errno;
	}
	printf("f%c%o%c%lld%c%s%c", 0, status->st_mode & 07777, 0, (long long)now.st_size, 0, name, 0);
	error = fflush(stdout) ? errno : copy_bytes(fd, 1, (uint64_t)now.st_size);
	/* A file that has shrunk meanwhile is filled up: its size is promised. */
	for (off_t at = lseek(fd, 0, SEEK_CUR); !error && at < now.st_size; at++)
		error = write(1, "", 1) == 1 ? 0 : errno;
	close(fd);
	return error;
}

static int get_link(const char *path, const char *name)
{
	char target[PATH_MAX];
	ssize_t size = readlink(path, target, sizeof(target));

	if (size < 0)
		return errno;
	printf("l%c777%c%zd%c%s%c", 0, 0, size, 0, name, 0);
	fwrite(target, 1, (size_t)size, stdout);
	return 0;
}

/* get DIRECTORY: its files, directories and links on standard output. */
int box_get(int argc, char **argv)
{
	char *paths[] = { argv[0], NULL };
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, NULL);
	size_t prefix = strlen(argv[0]);
	FTSENT *entry;
	int error = fts ? 0 : errno;

	(void)argc;
	while (!error && (entry = fts_read(fts))) {
		const char *name = entry->fts_path + prefix + (entry->fts_path[prefix] == '/');
		const struct stat *status = entry->fts_statp;

		if (!entry->fts_level) {
			if (entry->fts_info != FTS_D && entry->fts_info != FTS_DP)
				error = entry->fts_errno ? entry->fts_errno : ENOTDIR;
		} else if (entry->fts_info == FTS_D) {
			printf("d%c%o%c0%c%s%c", 0, status->st_mode & 07777, 0, 0, name, 0);
		} else if (entry->fts_info == FTS_F) {
			error = get_file(entry->fts_path, name, status);
		} else if (entry->fts_info == FTS_SL || entry->fts_info == FTS_SLNONE) {
			error = get_link(entry->fts_path, name);
		} else if (entry->fts_info == FTS_DNR) {
			error = entry->fts_errno;
		}
	}
	if (fts)
		fts_close(fts);
	printf(".%c0%c0%c%c", 0, 0, 0, 0);
	return fflush(stdout) && !error ? errno : error;
}

/* A field of standard input, which is read a byte at a time: what follows the record belongs to whoever reads next. */
static int field(char *to, size_t size)
{
	for (size_t at = 0; at < size; at++) {
		int error = read_exactly(to + at, 1);

		if (error || !to[at])
			return error;
	}
	return ENAMETOOLONG;
}

static int put_file(const char *path, mode_t mode, uint64_t size)
{
	int fd, error;

	unlink(path); /* a link is replaced, not followed */
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	error = copy_bytes(0, fd, size);
	if (!error && fchmod(fd, mode))
		error = errno;
	close(fd);
	return error;
}

static int put_link(const char *path, uint64_t size)
{
	char target[PATH_MAX];
	int error;

	if (size >= sizeof(target))
		return ENAMETOOLONG;
	error = read_exactly(target, size);
	if (error)
		return error;
	target[size] = '\0';
	unlink(path);
	return symlink(target, path) ? errno : 0;
}

/* put DIRECTORY: make what standard input describes. Files that are there and not described stay. */
int box_put(int argc, char **argv)
{
	char type[2], mode[16], size[24], name[PATH_MAX], path[2 * PATH_MAX];
	int error = make_parents(argv[0]);

	(void)argc;
	if (!error && mkdir(argv[0], 0755) && errno != EEXIST)
		error = errno;
	while (!error) {
		error = field(type, sizeof(type));
		error = error ? error : field(mode, sizeof(mode));
		error = error ? error : field(size, sizeof(size));
		error = error ? error : field(name, sizeof(name));
		if (error || type[0] == '.')
			break;
		snprintf(path, sizeof(path), "%s/%s", argv[0], name);
		if (type[0] == 'd') {
			if (mkdir(path, (mode_t)strtoul(mode, NULL, 8)) && errno != EEXIST)
				error = errno;
		} else if (type[0] == 'l') {
			error = put_link(path, strtoull(size, NULL, 10));
		} else {
			error = put_file(path, (mode_t)strtoul(mode, NULL, 8), strtoull(size, NULL, 10));
		}
	}
	sync();
	return error;
}
