// SPDX-License-Identifier: Apache-2.0
/*
 * The balloon, the console and the persistent memory against any chains, without a thread, so that a run depends on the
 * input alone. Input: which device, then chains: a byte of shape, descriptors of four bytes each, and what is in them.
 *
 * Every chain of a ring that is not broken is answered once, and no page outside of RAM is touched: RAM lies between two
 * pages with a known content.
 */
#include "balloon/balloon.h"
#include "console/console.h"
#include "pmem/pmem.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM = 0x100000, SIZE = 16, STEPS = 32, DATA = 0x10000 };
enum { A_DESC = 0, A_AVAIL = 0x400, A_USED = 0x600, B_DESC = 0x1000, B_AVAIL = 0x1400, B_USED = 0x1600 };

static uint8_t *ram;
static int event = -1, epoll, file, out[2];
static uint16_t idx[2];

static void setup(void)
{
	if (event < 0) {
		uint8_t *map = mmap(NULL, RAM + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		require(map != MAP_FAILED && pipe2(out, O_NONBLOCK | O_CLOEXEC) == 0);
		memset(map, 0x5a, PAGE);
		memset(map + PAGE + RAM, 0x5a, PAGE);
		ram = map + PAGE;
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		epoll = epoll_create1(EPOLL_CLOEXEC);
		file = memfd_create("image", MFD_CLOEXEC);
		require(ftruncate(file, PMEM_ALIGN) == 0);
	}
	memset(ram, 0, RAM);
	idx[0] = idx[1] = 0;
}

static void check_borders(void)
{
	for (int i = 0; i < PAGE; i++)
		require(ram[-1 - i] == 0x5a && ram[RAM + i] == 0x5a);
}

/* A chain of one to four buffers; the first nread of them are to be read. */
static void offer(const uint8_t **data, size_t *size, int queue, uint8_t shape)
{
	uint16_t head = (uint16_t)(4 * idx[queue] % SIZE);
	uint32_t n = 1 + (shape & 3), nread = shape >> 2 & 7;
	struct desc d[4] = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		uint16_t where[2] = { 0 };

		take(data, size, where, sizeof(where));
		/* Mostly RAM, sometimes a little or far behind it. */
		d[i].addr = DATA + (uint64_t)where[0] * (shape & 0x80 ? 64 : 8);
		d[i].len = where[1] % (shape & 0x40 ? 65536 : 64) + 1;
		d[i].flags = (uint16_t)((i + 1 < n ? 1 : 0) | (i >= nread ? 2 : 0));
		d[i].next = (uint16_t)(head + i + 1);
		if (d[i].addr + d[i].len <= RAM && i < nread)
			take(data, size, ram + d[i].addr, d[i].len < 64 ? d[i].len : 64);
	}
	memcpy(ram + (queue ? B_DESC : A_DESC) + 16 * head, d, n * sizeof(d[0]));
	memcpy(ram + (queue ? B_AVAIL : A_AVAIL) + 4 + 2 * (idx[queue] % SIZE), &head, 2);
	idx[queue]++;
	memcpy(ram + (queue ? B_AVAIL : A_AVAIL) + 2, &idx[queue], 2);
}

static bool answered(int queue)
{
	uint16_t used;

	memcpy(&used, ram + (queue ? B_USED : A_USED) + 2, 2);
	return used == idx[queue];
}

static int act_balloon(const struct mem *mem, struct ring *a, int what, struct balloon_stats *stats)
{
	struct balloon_memory memory = { .mem = mem };
	struct iovec iov[RING_MAX_SEGMENTS];
	int n;

	while ((n = balloon_run(&memory, what, a, iov, stats)) > 0)
		;
	ring_flush(a);
	require(n < 0 || stats->errors || answered(0) || what == BALLOON_REPORT);
	return n;
}

static int act_worker(const struct worker_ops *ops, struct worker *w)
{
	int n, turns = 0;

	do {
		n = ops->run(w);
		require(++turns < 1000);
	} while (n > 0);
	return n;
}

static void read_output(void)
{
	uint8_t buf[65536];

	while (read(out[0], buf, sizeof(buf)) > 0)
		;
}

static void start_worker(struct worker *w, struct ring *ring, struct irq *irq)
{
	w->ring = ring;
	w->irq = irq;
	w->event_fd = event;
	w->kick_fd = event;
	w->epoll_fd = epoll;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ring_config ac = { .size = SIZE, .desc = A_DESC, .avail = A_AVAIL, .used = A_USED };
	struct ring_config bc = { .size = SIZE, .desc = B_DESC, .avail = B_AVAIL, .used = B_USED };
	struct mem mem = { .nregions = 1 };
	struct irq irq = { .fd = -1 };
	struct balloon_stats stats = { 0 };
	struct console *console;
	struct pmem *pmem;
	struct ring *a, *b;
	uint8_t kind = 0;
	int err, n = 0;

	setup();
	irq.fd = event;
	mem.region[0] = (struct mem_region){ 0, RAM, (uintptr_t)ram };
	a = ring_new(&mem, &ac, &err);
	b = ring_new(&mem, &bc, &err);
	take(&data, &size, &kind, 1);
	console = console_new(kind & 0x10 ? out[1] : -1, kind & 0x20, -1);
	pmem = pmem_new(file, 0, &err);
	require(a && b && console && pmem);
	console_prepare(console, &(struct console_queues){ .rx = b, .tx = a, .rx_kick = event, .rx_irq = &irq });
	start_worker(&console->worker, a, &irq);
	start_worker(&pmem->worker, a, &irq);
	console->running = true;
	if (kind % 3)
		require(kind % 3 == 1 ? !console_ops.begin(&console->worker) : !pmem_ops.begin(&pmem->worker));
	for (int step = 0; size && n >= 0 && step < STEPS; step++) {
		uint8_t shape = 0;

		take(&data, &size, &shape, 1);
		if ((shape & 0x20) && kind % 3 == 1) {
			console_input(console, ram + DATA, shape);
			if (answered(1))
				offer(&data, &size, 1, shape);
		} else if (answered(0)) {
			offer(&data, &size, 0, shape);
		}
		if (kind % 3 == 0)
			n = act_balloon(&mem, a, kind / 3 % 3, &stats);
		else if (kind % 3 == 1)
			n = act_worker(&console_ops, &console->worker);
		else
			n = act_worker(&pmem_ops, &pmem->worker);
		require(console->kept <= CONSOLE_KEEP && console->in_len <= CONSOLE_INPUT);
		if (shape & 1)
			read_output();
	}
	check_borders();
	console_ops.drain(&console->worker);
	pmem_ops.drain(&pmem->worker);
	require(kind % 3 == 0 || ring_error(a) || ring_in_flight(a) == 0);
	epoll_ctl(epoll, EPOLL_CTL_DEL, event, NULL);
	read_output();
	console_free(console);
	pmem_free(pmem);
	ring_free(a);
	ring_free(b);
	return 0;
}
