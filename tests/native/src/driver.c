// SPDX-License-Identifier: Apache-2.0
#include "guest.h"

#include <dirent.h>
#include <poll.h>

#include <sys/mman.h>
#include <unistd.h>

void guest_open(struct guest *g, uint32_t size, uint32_t flags)
{
	int err;

	memset(g, 0, sizeof(*g));
	g->ram_fd = memfd_create("ram", MFD_CLOEXEC);
	CHECK(g->ram_fd >= 0);
	CHECK(ftruncate(g->ram_fd, LOW_SIZE + HIGH_SIZE) == 0);
	g->ram = mmap(NULL, LOW_SIZE + HIGH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->ram_fd, 0);
	CHECK(g->ram != MAP_FAILED);
	g->mem.nregions = 2;
	g->mem.region[0] = (struct mem_region){ 0, LOW_SIZE, (uintptr_t)g->ram };
	g->mem.region[1] = (struct mem_region){ HIGH_BASE, HIGH_SIZE, (uintptr_t)g->ram + LOW_SIZE };
	g->irq.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->irq.status = &g->isr;
	g->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->config = (struct ring_config){ .size = size, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED };
	g->desc = guest_ptr(g, AT_DESC);
	g->avail = guest_ptr(g, AT_AVAIL);
	g->used = guest_ptr(g, AT_USED);
	g->ring = ring_new(&g->mem, &g->config, &err);
	CHECK_EQ(err, 0);
}

void guest_open_queue(struct guest *g, const struct guest *of, const struct ring_config *config)
{
	int err;

	*g = *of;
	g->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->config = *config;
	g->desc = guest_ptr(g, config->desc);
	g->avail = guest_ptr(g, config->avail);
	g->used = guest_ptr(g, config->used);
	g->ring = ring_new(&g->mem, &g->config, &err);
	CHECK_EQ(err, 0);
}

void guest_close_queue(struct guest *g)
{
	ring_free(g->ring);
	close(g->kick_fd);
}

void guest_refuses(const struct guest *g, const struct ring_config *config, size_t n, int error)
{
	int err;

	for (size_t i = 0; i < n; i++) {
		CHECK(!ring_new(&g->mem, &config[i], &err));
		CHECK_EQ(err, error);
	}
}

void guest_close(struct guest *g)
{
	ring_free(g->ring);
	munmap(g->ram, LOW_SIZE + HIGH_SIZE);
	close(g->ram_fd);
	close(g->irq.fd);
	close(g->kick_fd);
	close(g->event_fd);
}

void *guest_ptr(struct guest *g, uint64_t gpa)
{
	void *p = mem_ptr(&g->mem, gpa, 1);

	CHECK(p);
	return p;
}

void guest_desc(struct guest *g, uint32_t i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	g->desc[i] = (struct desc){ addr, len, flags, next };
}

void guest_offer(struct guest *g, uint16_t head)
{
	g->avail[2 + g->avail_idx % g->config.size] = head;
	g->avail_idx++;
	__atomic_store_n(&g->avail[1], g->avail_idx, __ATOMIC_SEQ_CST);
}

void guest_kick(struct guest *g)
{
	uint16_t old = g->kicked, now = g->avail_idx;
	bool want;

	g->kicked = now;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (g->config.flags & RING_EVENT_IDX) {
		uint16_t event = __atomic_load_n(&g->used[2 + 4 * g->config.size], __ATOMIC_SEQ_CST);

		want = (uint16_t)(now - event - 1) < (uint16_t)(now - old);
	} else {
		want = !(__atomic_load_n(&g->used[0], __ATOMIC_SEQ_CST) & 1);
	}
	if (!want)
		return;
	g->kicks++;
	CHECK(eventfd_write(g->kick_fd, 1) == 0);
}

bool event_wait(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	eventfd_t n;

	if (poll(&p, 1, 20000) != 1)
		return false;
	return eventfd_read(fd, &n) == 0;
}

bool condition_wait(bool (*holds)(void *arg), void *arg)
{
	for (int left = 20000; left && !holds(arg); left--)
		poll(NULL, 0, 1);
	return holds(arg);
}

static bool is_idle(void *arg)
{
	const struct guest *g = arg;

	return __atomic_load_n(&g->used[2 + 4 * g->config.size], __ATOMIC_SEQ_CST) == g->avail_idx;
}

void guest_wait_idle(struct guest *g)
{
	CHECK(g->config.flags & RING_EVENT_IDX);
	CHECK(condition_wait(is_idle, g));
}

uint32_t guest_take(struct guest *g, uint32_t *len)
{
	uint16_t at = g->seen % g->config.size;
	uint32_t entry[2];

	while (__atomic_load_n(&g->used[1], __ATOMIC_ACQUIRE) == g->seen) {
		/* The wish, then one more look, then sleep. */
		if (g->config.flags & RING_EVENT_IDX)
			__atomic_store_n(&g->avail[2 + g->config.size], g->seen, __ATOMIC_SEQ_CST);
		else
			__atomic_store_n(&g->avail[0], 0, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&g->used[1], __ATOMIC_ACQUIRE) != g->seen)
			break;
		if (!event_wait(g->irq.fd)) {
			fprintf(stderr, "no interrupt: used.idx %u, seen %u, avail.idx %u, ring error: %s\n", g->used[1], g->seen,
				g->avail_idx, ring_error(g->ring));
			exit(1);
		}
	}
	if (!(g->config.flags & RING_EVENT_IDX))
		__atomic_store_n(&g->avail[0], 1, __ATOMIC_SEQ_CST);
	memcpy(entry, (uint8_t *)g->used + 4 + 8 * at, sizeof(entry));
	g->seen++;
	if (len)
		*len = entry[1];
	return entry[0];
}

int test_main(const struct test *tests, int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		for (; tests->name; tests++)
			puts(tests->name);
		return 0;
	}
	for (; tests->name; tests++) {
		if (argc > 1 && strcmp(argv[1], tests->name))
			continue;
		tests->run();
		if (argc > 1)
			return 0;
		printf("ok %s\n", tests->name);
	}
	if (argc > 1) {
		fprintf(stderr, "no test %s\n", argv[1]);
		return 2;
	}
	return 0;
}

int count_dir(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
