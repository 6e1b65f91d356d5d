// SPDX-License-Identifier: Apache-2.0
/*
 * The balloon, the console and the persistent memory against any chains, without a thread, so that a run depends on the
 * input alone. Input: which device, then chains: a byte of shape, descriptors of four bytes each, and what is in them.
 * Or registers: a UART, the pages of virtio-mmio and virtio-pci, PCI configuration space and a window of persistent memory
 * on a bus, against any accesses, while the host's side moves, types and reads.
 *
 * Every chain of a ring that is not broken is answered once, and no page outside of RAM is touched: RAM lies between two
 * pages with a known content.
 */
#include "balloon/balloon.h"
#include "console/console.h"
#include "pmem/pmem.h"
#include "uart/uart.h"
#include "vcpu/bus.h"
#include "guest.h"

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

		input_take(data, size, where, sizeof(where));
		/* Mostly RAM, sometimes a little or far behind it. */
		d[i].addr = DATA + (uint64_t)where[0] * (shape & 0x80 ? 64 : 8);
		d[i].len = where[1] % (shape & 0x40 ? 65536 : 64) + 1;
		d[i].flags = (uint16_t)((i + 1 < n ? 1 : 0) | (i >= nread ? 2 : 0));
		d[i].next = (uint16_t)(head + i + 1);
		if (d[i].addr + d[i].len <= RAM && i < nread)
			input_take(data, size, ram + d[i].addr, d[i].len < 64 ? d[i].len : 64);
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
	struct balloon_memory memory = { .mem = mem, .hint = 2 };
	struct iovec iov[RING_MAX_SEGMENTS];
	int n;

	while ((n = balloon_run(&memory, what, a, iov, stats)) > 0)
		;
	ring_flush(a);
	require(n < 0 || stats->errors || answered(0) || what >= BALLOON_REPORT);
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

/* -- registers ------------------------------------------------------------------------------------------------------ */

enum { COM = 0x3f8, ECAM = 0x40000000, REGS = 0x50000000, BAR = 0x60000000, WINDOW = 0x70000000, ECAM_SIZE = 32 << 15 };
enum { PAGES = 5, ACCESSES = 400, TAKE = 6, SLOT = 1 << 15 };

static void host_does(struct uart *uart, struct bus *bus, struct pmem *pmem, uint64_t *bar, uint8_t what, const uint8_t *b)
{
	struct uart_state state;

	switch (what % 9) {
	case 0:
		uart_input(uart, b, 1 + (what >> 6));
		break;
	case 1:
		uart_input(uart, ram, b[0] * 64u);
		break;
	case 2:
		uart_break(uart);
		break;
	case 3:
		uart_flush(uart);
		break;
	case 4:
		read_output();
		break;
	case 5: /* what was saved is taken back, and what no UART has said is not */
		uart_save(uart, &state);
		require(!uart_restore(uart, &state));
		((uint8_t *)&state)[b[0] % 12] = b[1];
		state.rx_len = b[2] * 32u;
		state.fifo_len = b[3] % 32;
		if (!uart_restore(uart, &state))
			require(state.rx_len <= sizeof(state.rx) && state.fifo_len <= sizeof(state.fifo));
		break;
	case 6:
		require(!bus_remove(bus, BUS_MMIO, *bar));
		*bar = BAR + b[0] * 4096ull;
		require(!bus_add_bar(bus, *bar, 4096, ram + 4 * PAGE));
		bus_move_window(bus, pmem, WINDOW + b[1] * (uint64_t)PMEM_ALIGN);
		break;
	case 7:
		(void)!ftruncate(file, b[0] % 8 ? b[0] * 4096 : PMEM_ALIGN);
		break;
	case 8:
		bus_window_fault(bus, b[0] % 2 ? bus_window_generation(bus) : b[1]);
		break;
	}
}

static int fuzz_registers(const uint8_t *data, size_t size, uint8_t kind)
{
	static const uint64_t base[] = { COM, ECAM, REGS, REGS + PAGE, BAR, WINDOW, 0, ECAM + 0x7ff0 };
	struct ecam ecam = { .page = { ram, NULL, ram + PAGE, [31] = ram + PAGE }, .trap = { 0x40, 0, 0xf4 } };
	struct uart *uart = uart_new(event, kind & 1 ? out[1] : -1, kind & 2 ? UART_OUT_DROP : UART_OUT_BLOCK, event);
	uint64_t bar = BAR, left;
	struct bus *bus = bus_new();
	struct uart_stats stats;
	struct pmem *pmem;
	int err, answer;

	require(ftruncate(file, PMEM_ALIGN) == 0);
	pmem = pmem_new(file, 0, &err);
	require(bus && uart && pmem);
	require(!bus_add_uart(bus, COM, uart) && !bus_add_ecam(bus, ECAM, &ecam) && !bus_add_python(bus, BUS_PIO, 0x600, 8));
	require(!bus_add_regpage(bus, REGS, 4096, ram + 2 * PAGE));
	require(!bus_add_regpage(bus, REGS + PAGE, 4096, ram + 3 * PAGE) && !bus_add_bar(bus, BAR, 4096, ram + 4 * PAGE));
	require(!bus_add_pmem(bus, pmem, WINDOW, pmem_size(pmem)));
	require(bus_add_regpage(bus, REGS + 8, 64, ram) == -EEXIST && bus_add_bar(bus, ECAM, 16, ram) == -EINVAL);
	memset(ram, 0x33, PAGES * PAGE);
	for (int i = 0; i < ACCESSES && size; i++) {
		uint8_t b[TAKE] = { 0 }, value[9];
		uint32_t len;
		uint64_t at;

		input_take(&data, &size, b, sizeof(b));
		if (b[0] >= 0xc0) {
			host_does(uart, bus, pmem, &bar, b[1], b + 2);
			continue;
		}
		/* Near a device, mostly at its start; with the length that an instruction can have. */
		len = 1u << (b[0] >> 3 & 3);
		at = base[b[0] & 7] + (b[1] & 0x80 ? b[2] << 8 | b[3] : b[2]) + (b[1] & 0x40 ? b[4] * (uint64_t)SLOT : 0);
		memcpy(value, b + 2, 4);
		value[0] = b[5];
		value[8] = 0x77;
		answer = bus_access(bus, b[1] & 1 || (b[0] & 7) ? BUS_MMIO : BUS_PIO, (b[0] & 7) ? at : COM + b[2] % 10, value, len,
				    b[0] & 0x20);
		require(answer == BUS_DONE || answer == BUS_UNCLAIMED || answer == BUS_TO_PYTHON);
		if (answer == BUS_UNCLAIMED && (b[0] & 7) == 5)
			bus_window_mmio(bus, at, value, len, b[0] & 0x20);
		require(value[8] == 0x77);
	}
	/* Only InterruptStatus changes without Python. */
	for (left = 0; left < PAGES * PAGE; left++)
		require(ram[left] == 0x33 || (left % PAGE >= 0x60 && left % PAGE < 0x64 && left / PAGE / 2 == 1));
	check_borders();
	uart_get_stats(uart, &stats);
	require(uart_timer_fd(uart) >= 0 && stats.rx_bytes <= ACCESSES * 8u * UART_RX_SIZE);
	bus_remove_window(bus, pmem);
	require(!bus_window_mmio(bus, WINDOW, ram, 1, false) && bus_remove(bus, BUS_PIO, 0x700) == -ENOENT);
	uart_free(uart);
	pmem_free(pmem);
	bus_free(bus);
	read_output();
	return 0;
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
	input_take(&data, &size, &kind, 1);
	if (kind >= 0xe0) {
		ring_free(a);
		ring_free(b);
		return fuzz_registers(data, size, kind);
	}
	require(ftruncate(file, PMEM_ALIGN) == 0);
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

		input_take(&data, &size, &shape, 1);
		if ((shape & 0x20) && kind % 3 == 2 && shape & 0x10) {
			require(ftruncate(file, (shape & 0xf) << 12) == 0);
			pmem_fault(pmem);
		}
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
