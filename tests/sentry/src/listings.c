// SPDX-License-Identifier: Apache-2.0
/* What programs read of directories that are read again, and that change before, between and while they are read. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "report.h"

enum { MOST = 4096, ROOM = 32768, MANY = 1000 };

struct entry {
	unsigned long inode, next;
	unsigned short size;
	unsigned char type;
	char name[];
};

static struct found {
	char name[64];
	unsigned long inode, next;
	int type;
} found[MOST];
static int count;

/* Read from where the file is on, as much as fits each time: the number of entries, or -1. */
static int read_entries(int fd, size_t room, int most)
{
	char buffer[ROOM] __attribute__((aligned(8)));
	long size;

	count = 0;
	while (count < most && (size = syscall(SYS_getdents64, fd, buffer, room)) > 0) {
		for (long at = 0; at < size;) {
			struct entry *entry = (struct entry *)(buffer + at);

			snprintf(found[count].name, sizeof(found[count].name), "%s", entry->name);
			found[count].inode = entry->inode;
			found[count].next = entry->next;
			found[count++].type = entry->type;
			at += entry->size;
		}
	}
	return count < most && size < 0 ? -1 : count;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->name, ((const struct found *)b)->name);
}

/* Names and types in their order, and whether each inode is that of the name. */
static void show_entries(int line, int fd, const char *directory)
{
	int result = read_entries(fd, ROOM, MOST);

	printf("%d %d:", line, result);
	qsort(found, (size_t)count, sizeof(*found), by_name);
	for (int i = 0; i < count; i++) {
		char path[128];
		struct stat status;

		snprintf(path, sizeof(path), "%.40s/%.60s", directory, found[i].name);
		printf(" %s,%d%s", found[i].name, found[i].type,
		       lstat(path, &status) ? "!" : status.st_ino == found[i].inode ? "" : "?");
	}
	printf("\n");
	fflush(stdout);
}

static void show_new(int line, const char *directory)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY);

	show_entries(line, fd, directory);
	close(fd);
}

static int kept_open;

/* After a change: who opens the directory, and who starts again. */
static void show_both(int line)
{
	show_new(line, ".");
	lseek(kept_open, 0, SEEK_SET);
	show_entries(line, kept_open, ".");
}

#define CHANGE(call) \
	do { \
		CALL(call); \
		show_both(__LINE__); \
	} while (0)

static int make(const char *name)
{
	return close(open(name, O_CREAT | O_EXCL | O_WRONLY, 0644));
}

static int make_without_name(const char *name)
{
	char path[64];
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) && linkat(fd, "", AT_FDCWD, name, AT_EMPTY_PATH))
		return -1;
	return close(fd);
}

static void changes_of_all_kinds(void)
{
	show_both(__LINE__);
	show_both(__LINE__);
	CHANGE(make("new"));
	CHANGE(mkdir("directory", 0755));
	CHANGE(symlink("nowhere", "symbolic"));
	CHANGE(link("new", "hard"));
	CHANGE(mknod("fifo", S_IFIFO | 0600, 0));
	CHANGE(make_without_name("late"));
	CHANGE(rename("new", "newer"));
	CHANGE(rename("late", "hard"));
	CHANGE(renameat2(AT_FDCWD, "directory", AT_FDCWD, "fifo", RENAME_EXCHANGE));
	CHANGE(renameat2(AT_FDCWD, "hard", AT_FDCWD, "symbolic", RENAME_NOREPLACE));
	CHANGE(unlink("newer"));
	CHANGE(unlink("newer"));
	CHANGE(mkdir("hard", 0755));
	CHANGE(rmdir("fifo"));
	CHANGE(unlink("directory"));
}

static void directories_that_move(void)
{
	mkdir("one", 0755), mkdir("two", 0755), mkdir("one/inner", 0755), mkdir("two/other", 0755);
	for (int i = 0; i < 2; i++)
		show_new(__LINE__, "one"), show_new(__LINE__, "two"), show_new(__LINE__, "one/inner"), show_new(__LINE__, "two/other");
	CALL(rename("one/inner", "two/inner"));
	show_new(__LINE__, "one"), show_new(__LINE__, "two"), show_new(__LINE__, "two/inner");
	CALL(renameat2(AT_FDCWD, "two/other", AT_FDCWD, "one", RENAME_EXCHANGE));
	show_new(__LINE__, "."), show_new(__LINE__, "two"), show_new(__LINE__, "one"), show_new(__LINE__, "two/other");
	CALL(rmdir("two/inner"));
	show_new(__LINE__, "two");
}

/* Each place leads to the same entry, in any order; an entry that fits into no buffer stays. */
static void places(void)
{
	static struct found all[MOST];
	int fd = open(".", O_RDONLY | O_DIRECTORY), total = read_entries(fd, ROOM, MOST), same = 0;

	memcpy(all, found, sizeof(all));
	for (int turn = 0; turn < 2; turn++) {
		for (int i = total; i-- > 1;) {
			if (lseek(fd, (off_t)all[i - 1].next, SEEK_SET) != (off_t)all[i - 1].next)
				continue;
			read_entries(fd, 160, 1);
			same += !strcmp(all[i].name, found[0].name);
		}
		printf("%d of %d are the same\n", same, 2 * (total - 1));
		close(fd);
		fd = open(".", O_RDONLY | O_DIRECTORY); /* whose first call reads in the middle */
	}
	CALL(lseek(fd, (off_t)all[total - 1].next, SEEK_SET) == (off_t)all[total - 1].next);
	CALL(read_entries(fd, ROOM, MOST));
	CALL(lseek(fd, 0, SEEK_SET));
	CALL(syscall(SYS_getdents64, fd, found, 20));
	CALL(make("between"));
	show_entries(__LINE__, fd, ".");
	CALL(read_entries(fd, ROOM, MOST));
	CALL(syscall(SYS_getdents64, fd, BAD, ROOM));
	CALL(lseek(fd, 0, SEEK_SET));
	CALL(syscall(SYS_getdents64, fd, BAD, ROOM));
	show_entries(__LINE__, fd, ".");
	CALL(lseek(fd, 0, SEEK_SET));
	CALL(syscall(SYS_getdents, fd, found, ROOM) > 0);
	CALL(syscall(SYS_getdents, fd, found, ROOM));
	close(fd);
}

/* Whoever shares an open file continues where the other was. */
static void two_readers(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY), first;

	first = read_entries(fd, 160, 5);
	IN_CHILD {
		printf("the rest: %d\n", first + read_entries(fd, ROOM, MOST));
		fflush(stdout);
		_exit(0);
	}
	CALL(read_entries(fd, ROOM, MOST));
	close(fd);
}

static void name_many(char *name, int number)
{
	sprintf(name, "many/%d-of-the-files-with-long-names", number);
}

/* Entries that stay come once, whatever comes and goes while the directory is read. */
static void changes_while_it_is_read(size_t room)
{
	static char seen[MANY];
	char name[64];
	int fd = open("many", O_RDONLY | O_DIRECTORY), part, removed = 0, once = 0;

	memset(seen, 0, sizeof(seen));
	for (int turn = 0; (part = read_entries(fd, room, 1)) > 0; turn++) {
		for (int i = 0; i < part; i++) {
			int number = atoi(found[i].name);

			if (found[i].type == DT_REG && number >= 0)
				seen[number]++;
			if (found[i].type != DT_REG || number % 3 || turn > 20)
				continue;
			name_many(name, number);
			removed += !unlink(name);
		}
		if (turn > 5)
			continue;
		sprintf(name, "many/%d", -1 - turn);
		make(name);
	}
	close(fd);
	for (int i = 0; i < MANY; i++) {
		name_many(name, i);
		once += seen[i] == 1;
		if (access(name, F_OK))
			make(name);
	}
	for (int turn = 0; turn <= 5; turn++) {
		sprintf(name, "many/%d", -1 - turn);
		unlink(name);
	}
	printf("%d of %d once, some removed: %d, last part %d\n", once, MANY, removed > 0, part);
	fflush(stdout);
}

static void many(void)
{
	char name[64];

	mkdir("many", 0755);
	for (int i = 0; i < MANY; i++) {
		name_many(name, i);
		make(name);
	}
	for (int i = 0; i < 3; i++) {
		int fd = open("many", O_RDONLY | O_DIRECTORY);

		CALL(read_entries(fd, i == 1 ? 200 : ROOM, MOST));
		close(fd);
		changes_while_it_is_read(i == 1 ? 400 : ROOM);
	}
}

static void removed_ones(void)
{
	int fd;

	mkdir("gone", 0755);
	show_new(__LINE__, "gone");
	fd = open("gone", O_RDONLY | O_DIRECTORY);
	CALL(rmdir("gone"));
	CALL(read_entries(fd, ROOM, MOST));
	mkdir("gone", 0755);
	CALL(read_entries(fd, ROOM, MOST));
	show_new(__LINE__, "gone");
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 2 || mkdir(argv[1], 0755) || chdir(argv[1]))
		return 1;
	for (int i = 0; i < 20; i++) {
		char name[16];

		sprintf(name, "file%02d", i);
		make(name);
	}
	kept_open = open(".", O_RDONLY | O_DIRECTORY);
	changes_of_all_kinds();
	directories_that_move();
	places();
	two_readers();
	many();
	removed_ones();
	return 42;
}
