/*
 * usage: ledger run|check DIRECTORY
 *
 * A small database: 64 pages in the file "pages", and a log. A transaction writes one page: it is appended to "log", which
 * is then synced; from then on it counts. Every 16 transactions the pages are written and synced, and the log is emptied.
 *
 * run: commit one after the other, and rewrite "acknowledged" in the current directory with the number of the last.
 * check: read all as after a crash, and print the number of the last transaction. Fails if a page is not what it must be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, EVERY = 16 };

struct page {
	uint64_t number; /* of the transaction that wrote it; of the first page: of the last that is in all pages */
	uint64_t sum;
	uint8_t data[PAGE - 16];
};

static struct page pages[1 + PAGES];
static int pages_fd, log_fd;

static int fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t sum_of(const struct page *page)
{
	uint64_t sum = 0xcbf29ce484222325ull ^ page->number;

	for (size_t i = 0; i < sizeof(page->data); i++)
		sum = (sum ^ page->data[i]) * 0x100000001b3ull;
	return sum;
}

static void make(struct page *page, uint64_t number)
{
	page->number = number;
	for (size_t i = 0; i < sizeof(page->data); i++)
		page->data[i] = (uint8_t)(number * 31 + i);
	page->sum = sum_of(page);
}

static void put(int fd, const struct page *page, off_t at)
{
	errno = EIO; /* for a write that is only short */
	if (pwrite(fd, page, PAGE, at * PAGE) != PAGE)
		fail("write");
}

static void sync_or_fail(int fd)
{
	if (fdatasync(fd))
		fail("fdatasync");
}

/* The number of the last transaction. */
static uint64_t recover(void)
{
	struct page page;
	uint64_t last;

	for (int i = 0; i <= PAGES; i++)
		if (pread(pages_fd, &pages[i], PAGE, (off_t)i * PAGE) < 0)
			fail("read");
	last = pages[0].number;
	for (off_t at = 0; pread(log_fd, &page, PAGE, at * PAGE) == PAGE && page.sum == sum_of(&page); at++) {
		if (page.number > last + 1)
			break;
		pages[1 + page.number % PAGES] = page;
		last = page.number > last ? page.number : last;
	}
	return last;
}

static void check(uint64_t last)
{
	for (uint64_t number = last; number && number + PAGES > last; number--) {
		const struct page *page = &pages[1 + number % PAGES];
		struct page wanted;

		make(&wanted, number);
		if (memcmp(page, &wanted, PAGE)) {
			fprintf(stderr, "page of transaction %llu: has %llu of %llu\n", (unsigned long long)number,
				(unsigned long long)page->number, (unsigned long long)last);
			exit(1);
		}
	}
	printf("%llu\n", (unsigned long long)last);
}

static void write_pages(uint64_t last)
{
	for (int i = 1; i <= PAGES; i++)
		put(pages_fd, &pages[i], i);
	sync_or_fail(pages_fd);
	make(&pages[0], last);
	put(pages_fd, &pages[0], 0);
	sync_or_fail(pages_fd);
	if (ftruncate(log_fd, 0))
		fail("ftruncate");
	sync_or_fail(log_fd);
}

int main(int argc, char **argv)
{
	off_t at = 0;
	uint64_t number;
	char line[32];
	int told;

	if (argc != 3 || (strcmp(argv[1], "run") && strcmp(argv[1], "check"))) {
		fprintf(stderr, "usage: ledger run|check DIRECTORY\n");
		return 2;
	}
	told = open("acknowledged", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (told < 0 || chdir(argv[2]))
		return fail(argv[2]);
	pages_fd = open("pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	log_fd = open("log", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (pages_fd < 0 || log_fd < 0)
		return fail("open");
	number = recover();
	if (!strcmp(argv[1], "check")) {
		check(number);
		return 0;
	}
	write_pages(number);
	for (;;) {
		struct page *page = &pages[1 + ++number % PAGES];

		make(page, number);
		put(log_fd, page, at++);
		sync_or_fail(log_fd);
		if (pwrite(told, line, (size_t)sprintf(line, "%020llu\n", (unsigned long long)number), 0) < 0)
			return fail("acknowledged");
		if (at == EVERY) {
			write_pages(number);
			at = 0;
		}
	}
}
