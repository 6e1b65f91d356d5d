// SPDX-License-Identifier: Apache-2.0
/* Mappings of files and memory, moved, shared, discarded and forked: the same output natively and on the Sentry. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "report.h"

enum { PAGE = 4096 };

static sigjmp_buf back;

#define MAPS(call) (show(__LINE__, #call, (call) == MAP_FAILED ? -1 : 0), fflush(stdout))

static char *memory(int pages, int flags)
{
	return mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
}

static void on_signal(int signal)
{
	siglongjmp(back, signal);
}

static void touch(const char *what, volatile char *at, int write)
{
	int signal = sigsetjmp(back, 1);

	if (!signal && write)
		*at = 'w';
	if (!signal)
		printf("%s: %d\n", what, *at);
	else
		printf("%s: signal %d\n", what, signal);
}

static void remaps(void)
{
	char *a = memory(4, MAP_PRIVATE), *b, *s = memory(2, MAP_SHARED);

	for (int i = 0; i < 4; i++)
		a[i * PAGE] = (char)('a' + i);
	b = mremap(a, 4 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);
	printf("moved %c%c%c%c%d\n", b[0], b[PAGE], b[2 * PAGE], b[3 * PAGE], b[8 * PAGE]);
	CALL(mremap(b, 9 * PAGE, 2 * PAGE, 0) == b);
	touch("behind", b + 2 * PAGE, 0);
	MAPS(mremap(b, -(size_t)PAGE, PAGE, 0));
	MAPS(mremap(b, -(size_t)PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x20000000));
	MAPS(mremap(b + 1, PAGE, PAGE, 0));
	MAPS(mremap(b, PAGE, 0, 0));
	MAPS(mremap((void *)0x10000000, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
	MAPS(mremap(b, PAGE, PAGE, MREMAP_FIXED, b + PAGE));
	MAPS(mremap(b, 0, PAGE, MREMAP_MAYMOVE));
	s[0] = 's';
	a = mremap(s, 0, 2 * PAGE, MREMAP_MAYMOVE);
	a[PAGE] = 't';
	printf("twice %c%c\n", a[0], s[PAGE]);
	a = mremap(s, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x20000000);
	printf("fixed %p %c\n", a, a[PAGE]);
	touch("left", s, 0);
}

/* Page by page, in place as far as there is room: the highest mapping, which grows towards the stack. */
static void grow(void)
{
	enum { PAGES = 600 };
	char *at = memory(1, MAP_PRIVATE);
	int good = 0;

	for (int i = 0; i < PAGES; i++) {
		at = mremap(at, (size_t)(i ? i : 1) * PAGE, (size_t)(i + 1) * PAGE, MREMAP_MAYMOVE);
		memset(at + i * PAGE, i % 128, PAGE);
	}
	for (int i = 0; i < PAGES; i++)
		good += at[i * PAGE] == i % 128;
	printf("grown: %d\n", good);
}

static void files(void)
{
	int fd = memfd_create("file", 0), only = open("/dev/zero", O_RDONLY);
	char *private, *shared, *zero;

	CALL(ftruncate(fd, 3 * PAGE - 100));
	CALL(pwrite(fd, "hello", 5, PAGE));
	private = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	printf("%.5s %.5s\n", private + PAGE, shared + PAGE);
	shared[PAGE] = 'H';
	printf("before a copy %.5s\n", private + PAGE);
	private[PAGE] = 'J';
	shared[PAGE + 1] = 'E';
	printf("%.5s %.5s\n", private + PAGE, shared + PAGE);
	memset(private, 0, 16);
	CALL(pread(fd, private, 5, PAGE));
	printf("file %s\n", private);
	shared[3 * PAGE - 1] = 'x';
	touch("behind the end", shared + 3 * PAGE, 0);
	CALL(ftruncate(fd, PAGE));
	touch("cut off", shared + PAGE, 0);
	touch("its own", private + PAGE, 0);
	CALL(msync(shared, PAGE, MS_SYNC));
	CALL(msync(shared, PAGE, MS_SYNC | MS_ASYNC));
	CALL(msync((void *)0x10000000, PAGE, MS_ASYNC));
	MAPS(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, only, 0));
	zero = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, only, 0);
	touch("zero", zero, 1);
	MAPS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 99, 0));
	MAPS(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0));
	CALL(mprotect(zero, PAGE, PROT_READ));
	touch("read only", zero, 1);
	close(fd);
	close(only);
}

static void advice(void)
{
	char *a = memory(4, MAP_PRIVATE), *s = memory(4, MAP_SHARED);
	unsigned char resident[4] = { 9, 9, 9, 9 };
	int status;
	pid_t pid;

	memset(a, 'a', 4 * PAGE);
	memset(s, 's', 4 * PAGE);
	CALL(madvise(a, PAGE, MADV_DONTNEED));
	CALL(madvise(s, PAGE, MADV_DONTNEED));
	printf("after: %d %c %c\n", a[0], a[PAGE], s[0]);
	CALL(madvise(a + PAGE, PAGE, MADV_DONTFORK));
	CALL(madvise(a + 2 * PAGE, PAGE, MADV_WIPEONFORK));
	CALL(madvise(s, PAGE, MADV_WIPEONFORK));
	pid = fork();
	if (!pid) {
		printf("child: %d %d %c\n", a[0], a[2 * PAGE], a[3 * PAGE]);
		touch("not forked", a + PAGE, 0);
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	printf("child %x, parent: %c %c\n", status, a[PAGE], a[2 * PAGE]);
	a = memory(4, MAP_PRIVATE);
	CALL(madvise(a, 2 * PAGE, MADV_POPULATE_WRITE));
	CALL(madvise(a + 1, PAGE, MADV_POPULATE_READ));
	munmap(a + 2 * PAGE, PAGE);
	CALL(madvise(a, 4 * PAGE, MADV_POPULATE_READ));
	CALL(madvise(a, PAGE, 5));
	CALL(mincore(a, 2 * PAGE, resident));
	printf("resident %d%d\n", resident[0] & 1, resident[1] & 1);
	CALL(mincore(a, 4 * PAGE, resident));
	CALL(mincore(a + 1, PAGE, resident));
	CALL(mlock(a, PAGE));
	CALL(munlock(a, 4 * PAGE));
	CALL(mlockall(8));
}

static void locked(void)
{
	char *a = memory(3, MAP_PRIVATE), *s = memory(1, MAP_SHARED);

	CALL(mlock(a + PAGE, 10));
	CALL(msync(a, PAGE, MS_INVALIDATE));
	CALL(msync(a, 2 * PAGE, MS_INVALIDATE));
	CALL(msync(a + PAGE, PAGE, MS_SYNC));
	CALL(madvise(a + PAGE, PAGE, MADV_DONTNEED));
	IN_CHILD
		CALL(msync(a, 2 * PAGE, MS_INVALIDATE | MS_SYNC));
	CALL(munlock(a, 3 * PAGE));
	CALL(msync(a, 3 * PAGE, MS_INVALIDATE));
	CALL(mlockall(MCL_CURRENT));
	CALL(msync(s, PAGE, MS_INVALIDATE));
	CALL(munlockall());
	CALL(msync(s, PAGE, MS_INVALIDATE));
	munmap(a, 3 * PAGE);
	munmap(s, PAGE);
}

/* A seal against writes, and mappings that write or may do so. */
static void seals(void)
{
	int fd = memfd_create("written", MFD_ALLOW_SEALING), read = memfd_create("read", MFD_ALLOW_SEALING);
	char *a;

	CALL(ftruncate(fd, PAGE));
	a = mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0);
	CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	munmap(a, PAGE);
	a = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	munmap(a, PAGE);
	MAPS(mmap(NULL, PAGE, PROT_WRITE, MAP_PRIVATE, fd, 0));
	CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	MAPS(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0));
	MAPS(mmap(NULL, PAGE, PROT_WRITE, MAP_PRIVATE, fd, 0));
	a = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CALL(mprotect(a, PAGE, PROT_READ | PROT_WRITE));
	CALL(ftruncate(read, PAGE));
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, read, 0);
	CALL(fcntl(read, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	a[0] = 'x';
	MAPS(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, read, 0));
	CALL(pwrite(read, "y", 1, 0));
	close(fd);
	close(read);
}

/* RLIMIT_AS, of which the program itself needs little. */
static void limited(void)
{
	enum { MIB = 1 << 20 };
	const struct rlimit limit = { 1024l * MIB, 1024l * MIB };
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *a;

	CALL(setrlimit(RLIMIT_AS, &limit));
	MAPS(mmap(NULL, 2048l * MIB, prot, flags, -1, 0));
	a = mmap(NULL, 512l * MIB, prot, flags, -1, 0);
	MAPS(mmap(NULL, 600l * MIB, prot, flags, -1, 0));
	CALL(mmap(a, 512l * MIB, PROT_READ, flags | MAP_FIXED, -1, 0) == a);
	MAPS(mremap(a, 512l * MIB, 1100l * MIB, MREMAP_MAYMOVE));
	a = mremap(a, 512l * MIB, 800l * MIB, MREMAP_MAYMOVE);
	CALL(a != MAP_FAILED);
	CALL(sbrk(600l * MIB) == (void *)-1);
	CALL(munmap(a, 800l * MIB));
	MAPS(mmap(NULL, 600l * MIB, prot, flags, -1, 0)); /* not sbrk(): whether that fits depends on a random place */
}

/* Mapping a file is an access of it, and the first write to a page a change. */
static void file_times(void)
{
	const struct timespec old[2] = { { 1000, 0 }, { 2000, 0 } };
	int fd = memfd_create("times", 0);
	struct stat stat;
	char *a;

	CALL(ftruncate(fd, PAGE));
	CALL(futimens(fd, old));
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fstat(fd, &stat);
	printf("mapped: accessed %d modified %d\n", stat.st_atim.tv_sec != 1000, stat.st_mtim.tv_sec != 2000);
	a[0] = 'x';
	fstat(fd, &stat);
	printf("written: modified %d\n", stat.st_mtim.tv_sec != 2000);
	munmap(a, PAGE);
	close(fd);
}

/* Many pages of many processes, which write to half of them. */
static void copies(void)
{
	enum { PAGES = 256, CHILDREN = 8 };
	char *a = memory(PAGES, MAP_PRIVATE), *sums = memory(1, MAP_SHARED);

	for (int i = 0; i < PAGES; i++)
		a[i * PAGE] = (char)i;
	for (int child = 0; child < CHILDREN; child++) {
		if (fork())
			continue;
		int sum = 0;

		for (int i = child; i < PAGES; i += 2)
			a[i * PAGE] += (char)child;
		for (int i = 0; i < PAGES; i++)
			sum += (unsigned char)a[i * PAGE];
		sums[child] = (char)sum;
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	for (int child = 0; child < CHILDREN; child++)
		printf("%d ", sums[child]);
	printf("%d\n", a[5 * PAGE]);
}

/* A mapping shows what the file has where a hole was made, and writes to it. */
static void make_holes(void)
{
	int fd = memfd_create("holes", 0);
	char *map, text[2] = "";

	CALL(ftruncate(fd, 4 * PAGE)), CALL(pwrite(fd, "a", 1, PAGE)), CALL(pwrite(fd, "b", 1, 2 * PAGE));
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	printf("mapped %c %c\n", map[PAGE], map[2 * PAGE]);
	map[2 * PAGE + 1] = 'c';
	CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, 2 * PAGE));
	printf("mapped %d %d %d\n", map[PAGE], map[2 * PAGE], map[2 * PAGE + 1]);
	map[PAGE + 1] = 'd', map[2 * PAGE] = 'e';
	CALL(pread(fd, text, 2, PAGE)), printf("read %d %c\n", text[0], text[1]);
	CALL(pread(fd, text, 2, 2 * PAGE)), printf("read %c %d\n", text[0], text[1]);
	munmap(map, 4 * PAGE), close(fd);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
	grow();
	remaps();
	files();
	make_holes();
	advice();
	copies();
	locked();
	file_times();
	seals();
	IN_CHILD
		limited();
	return 3;
}
