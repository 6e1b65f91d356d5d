// SPDX-License-Identifier: Apache-2.0
/*
 * RAM of a core that continues a stopped one, of which it has no copy: as long as nobody changes a page, it is that of the
 * stopped core, which all that continue it share.
 *
 * A page is one of three:
 * - own: in the RAM of this sandbox, which its programs and its devices see, too;
 * - below, and private: the core alone uses it, and the host copies it for the core's first write;
 * - below, and shown: programs see it, and nobody can write to it. A write of the core or of a program makes it own.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "below.h"

/*
 * Each run of pages is a mapping, of which the host allows about 65,000. After so many single pages blocks become own, and
 * after so many changes all pages.
 */
enum { PAGE = 4096, SINGLE = 4096, BLOCK = 16, CHANGES_MOST = 20000, BITS = 64 };
enum { RUN_MOST = 1 << 18 }; /* pages: less than what one call writes */

static const char none[] = "no memory for the sandbox";
static PROCESS_LOCAL struct {
	u8 *ram;
	const u8 *pages; /* of the stopped core */
	u64 size;
	int fd, ram_fd;
	u64 *below, *shown, *moved; /* a bit for each page */
	u64 copied, changes;
	bool any_moved;
} this = { .fd = -1, .ram_fd = -1 };

static bool has(const u64 *set, u64 page)
{
	return set[page / BITS] >> page % BITS & 1;
}

static void put(u64 *set, u64 page, bool value)
{
	const u64 bit = 1ull << page % BITS;

	set[page / BITS] = value ? set[page / BITS] | bit : set[page / BITS] & ~bit;
}

int below_fd(void)
{
	return this.fd;
}

int below_ram(void)
{
	return this.ram_fd;
}

/* What the core sees in pages. */
static void view(u64 first, u64 end, int prot, int flags, int fd)
{
	this.changes++;
	if (mmap(this.ram + first * PAGE, (end - first) * PAGE, prot, flags | MAP_FIXED | MAP_NORESERVE, fd,
		 (off_t)(first * PAGE)) == MAP_FAILED)
		fail(none);
}

/* -- pages become own -- */

static void note_moved(u64 first, u64 end)
{
	for (u64 page = first; page < end; page++) {
		put(this.below, page, false);
		if (!has(this.shown, page))
			continue;
		put(this.shown, page, false);
		put(this.moved, page, true);
		this.any_moved = true;
	}
}

static void write_out(u64 first, u64 end)
{
	for (u64 at = first * PAGE, done; at < end * PAGE; at += done) {
		const ssize_t got = pwrite(this.ram_fd, this.ram + at, end * PAGE - at, (off_t)at);

		if (got <= 0)
			fail(none);
		done = (u64)got;
	}
}

/*
 * Copy pages to this sandbox's RAM, and see them there. The stack may be among them: nothing is written to it between the
 * copy and the mapping.
 */
static bool exchange(u64 first, u64 end)
{
	u8 *const at = this.ram + first * PAGE;
	u64 result = SYS_pwrite64, fd = (u64)this.ram_fd, from = (u64)at, size = (end - first) * PAGE;
	register u64 offset asm("r10") = first * PAGE;

	asm volatile("	syscall\n"
		     "	cmp %%rdx, %%rax\n"
		     "	jne 1f\n"
		     "	mov %%edi, %%r8d\n"
		     "	mov %%r10, %%r9\n"
		     "	mov %%rsi, %%rdi\n"
		     "	mov %%rdx, %%rsi\n"
		     "	mov %[prot], %%edx\n"
		     "	mov %[flags], %%r10d\n"
		     "	mov %[map], %%eax\n"
		     "	syscall\n"
		     "1:\n"
		     : "+a"(result), "+D"(fd), "+S"(from), "+d"(size), "+r"(offset)
		     : [prot] "i"(PROT_READ | PROT_WRITE), [flags] "i"(MAP_SHARED | MAP_FIXED | MAP_NORESERVE), [map] "i"(SYS_mmap)
		     : "rcx", "r8", "r9", "r11", "memory", "cc");
	return result == (u64)at;
}

static u64 run_of(u64 page, u64 end)
{
	const bool below = has(this.below, page);

	while (page < end && has(this.below, page) == below)
		page++;
	return page;
}

static void own(u64 first, u64 end)
{
	for (u64 page = first, next; page < end; page = next) {
		next = run_of(page, end < page + RUN_MOST ? end : page + RUN_MOST);
		if (!has(this.below, page))
			continue;
		if (!exchange(page, next))
			fail(none);
		this.changes++;
		note_moved(page, next);
		this.copied += next - page;
	}
}

void below_own(u64 offset, u64 size)
{
	const u64 last = this.size / PAGE;
	u64 first = offset / PAGE, end = (offset + size + PAGE - 1) / PAGE;

	if (this.fd < 0)
		return;
	end = end < last ? end : last;
	while (first < end && !has(this.below, first))
		first++;
	if (first < end && this.copied > SINGLE) {
		first = first / BLOCK * BLOCK;
		end = (end + BLOCK - 1) / BLOCK * BLOCK;
	}
	own(first, end < last ? end : last);
	if (this.changes > CHANGES_MOST) {
		own(0, last);
		this.changes = 0;
	}
}

void below_take(u64 offset)
{
	const u64 page = offset / PAGE;

	if (this.fd < 0)
		return;
	put(this.shown, page, false);
	below_own(offset, PAGE);
}

void below_own_at(const void *at, u64 size)
{
	const u64 offset = (u64)((const u8 *)at - this.ram);

	if (this.fd >= 0 && (const u8 *)at >= this.ram && offset < this.size)
		below_own(offset, size);
}

void below_drop(u64 offset, u64 size)
{
	const u64 first = offset / PAGE, end = (offset + size) / PAGE;

	for (u64 page = first, next; this.fd >= 0 && page < end; page = next) {
		next = run_of(page, end);
		if (!has(this.below, page))
			continue;
		view(page, next, PROT_READ | PROT_WRITE, MAP_SHARED, this.ram_fd);
		note_moved(page, next);
	}
}

/* -- what programs see -- */

static bool is_same(u64 page)
{
	return has(this.shown, page) || !memcmp(this.ram + page * PAGE, this.pages + page * PAGE, PAGE);
}

static void show(u64 first, u64 end)
{
	for (u64 page = first, next; page < end; page = next) {
		for (next = page + 1; next < end && has(this.shown, next) == has(this.shown, page);)
			next++;
		if (has(this.shown, page))
			continue;
		view(page, next, PROT_READ, MAP_SHARED, this.fd);
		for (u64 at = page; at < next; at++)
			put(this.shown, at, true);
	}
}

u64 below_show(u64 offset, u64 size, bool *below)
{
	const u64 first = offset / PAGE, end = (offset + size) / PAGE;
	u64 page = first;

	*below = false;
	if (this.fd < 0)
		return size;
	if (has(this.below, page) && !is_same(page))
		below_own(offset, PAGE);
	*below = has(this.below, page);
	if (!*below) {
		page = run_of(page, end);
	} else {
		while (page < end && has(this.below, page) && is_same(page))
			page++;
		show(first, page);
	}
	return (page - first) * PAGE;
}

bool below_has_moved(void)
{
	return this.any_moved;
}

static bool is_moved(u64 offset)
{
	return has(this.moved, offset / PAGE);
}

void below_settle(void)
{
	this.any_moved = false;
	core_hide(is_moved);
	memset(this.moved, 0, this.size / PAGE / 8);
}

/* -- start and end -- */

/* The core writes to a page that is shown. */
static void on_write(int number, siginfo_t *info, void *context)
{
	const u64 offset = (u64)((const u8 *)info->si_addr - this.ram);

	(void)context;
	if ((const u8 *)info->si_addr >= this.ram && offset < this.size && has(this.shown, offset / PAGE))
		below_own(offset, 1);
	else
		signal(number, SIG_DFL); /* an error of the core: it happens again, and ends this process */
}

static u64 *bits(u64 size)
{
	u64 *made = calloc(size / PAGE / BITS + 1, sizeof(*made));

	if (!made)
		fail(none);
	return made;
}

/* The start of the next data in a file, or of the next hole; or the file's end. */
static u64 seek(int fd, u64 from, int what)
{
	const off_t found = lseek(fd, (off_t)from, what);

	return found < 0 || (u64)found > this.size ? this.size : (u64)found;
}

void below_start(int fd, int ram_fd, u8 *ram, u64 size)
{
	const struct sigaction action = { .sa_sigaction = on_write, .sa_flags = SA_SIGINFO | SA_NODEFER };

	this.fd = fd;
	this.ram_fd = ram_fd;
	this.ram = ram;
	this.size = size;
	this.pages = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (this.pages == MAP_FAILED)
		fail(none);
	this.below = bits(size);
	this.shown = bits(size);
	this.moved = bits(size);
	/* What the devices need was copied before. */
	for (u64 at = seek(fd, 0, SEEK_DATA), end; at < size; at = seek(fd, end, SEEK_DATA)) {
		end = seek(fd, at, SEEK_HOLE);
		for (u64 start = at, copied; start < end; start = seek(ram_fd, copied, SEEK_HOLE)) {
			copied = seek(ram_fd, start, SEEK_DATA);
			copied = copied < end ? copied : end;
			if (start == copied)
				continue;
			view(start / PAGE, copied / PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
			for (u64 page = start / PAGE; page < copied / PAGE; page++)
				put(this.below, page, true);
		}
	}
	sigaction(SIGSEGV, &action, NULL);
}

void below_save(void)
{
	const u64 last = this.size / PAGE;

	for (u64 page = 0, next; this.fd >= 0 && page < last; page = next) {
		next = run_of(page, last);
		if (has(this.below, page))
			write_out(page, next);
	}
}
