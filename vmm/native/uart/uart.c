// SPDX-License-Identifier: Apache-2.0
/*
 * A 16550A UART (National Semiconductor PC16550D data sheet) without a baud clock: bytes are sent immediately.
 *
 * Input waits in rx[] until the guest is ready, as with RTS/CTS flow control. A driver that opens the port clears the
 * FIFO and reads RBR, which would discard the first bytes of a pipe.
 *
 * The guest receives input in bursts. After each burst, input pauses for as long as the guest took to read it. Linux's
 * interrupt handler reads while there is data, up to 128 KiB. Without pauses nothing else would run in the guest during
 * a paste, not even the code that clears RTS when its buffers are full.
 */
#include <string.h>
#include <sys/eventfd.h>

#include "uart/uart.h"
#include "vcpu/bus.h"

enum {
	FIFO_SIZE = UART_FIFO_SIZE,
	BURST_US = 1000, /* raise the THR-empty interrupt after this time if the guest accesses no other register */
	RX_BURST = 256,
	PAUSE_MIN_US = 500,
	PAUSE_MAX_US = 50000,
	LOW_WATER = UART_RX_SIZE / 2,
	LSR_EMPTY = UART_LSR_THRE | UART_LSR_TEMT,
	IIR_FIFO = 0xc0,
};

void uart_end_burst(struct uart *u)
{
	if (!u->burst)
		return;
	u->burst = false;
	if (!u->stalled)
		u->s.thr_pending = 1;
}

static bool rx_listening(const struct uart *u)
{
	if (u->s.mcr & UART_MCR_LOOP)
		return false;
	if (u->s.seen & UART_SEEN_RTS)
		return u->s.mcr & UART_MCR_RTS;
	/* RTS was never set. A simple guest either enables the receive interrupt, or polls and never writes MCR. */
	return (u->s.ier & UART_IER_RDI) || !(u->s.seen & UART_SEEN_MCR);
}

static bool data_ready(const struct uart *u)
{
	return u->s.fifo_len || (u->s.rx_len && !u->rx_paused && rx_listening(u));
}

void uart_fifo_push(struct uart *u, uint8_t byte)
{
	uint32_t depth = u->s.fcr & UART_FCR_ENABLE_FIFO ? FIFO_SIZE : 1;

	if (u->s.fifo_len < depth) {
		u->s.fifo[u->s.fifo_len++] = byte;
		return;
	}
	u->s.lsr |= UART_LSR_OE;
	/* On an overrun without the FIFO, the new byte replaces the one in RBR; the FIFO keeps its old bytes. */
	if (depth == 1)
		u->s.fifo[0] = byte;
}

static void rx_drop(struct uart *u, uint32_t count)
{
	if (count > u->s.rx_len)
		count = u->s.rx_len;
	u->rx_head = (u->rx_head + count) % UART_RX_SIZE;
	u->s.rx_len -= count;
	if (u->rx_full && u->s.rx_len <= LOW_WATER) {
		u->rx_full = false;
		if (u->space_fd >= 0)
			(void)!eventfd_write(u->space_fd, 1);
	}
}

static void rx_pause(struct uart *u)
{
	uint64_t us = uart_now_us() - u->rx_since;

	if (us < PAUSE_MIN_US)
		us = PAUSE_MIN_US;
	if (us > PAUSE_MAX_US)
		us = PAUSE_MAX_US;
	u->rx_burst = 0;
	uart_timer_arm(u, (long)us);
	u->rx_paused = true;
}

static uint8_t rx_byte(struct uart *u)
{
	uint8_t byte;

	if (u->s.fifo_len) {
		byte = u->s.fifo[0];
		memmove(u->s.fifo, u->s.fifo + 1, --u->s.fifo_len);
		return byte;
	}
	if (!data_ready(u))
		return 0;
	byte = u->s.rx[u->rx_head];
	u->stats.rx_bytes++;
	rx_drop(u, 1);
	if (!u->s.rx_len)
		u->rx_burst = 0;
	else if (u->rx_burst++ == 0)
		u->rx_since = uart_now_us();
	else if (u->rx_burst >= RX_BURST)
		rx_pause(u);
	return byte;
}

/*
 * The pending interrupt with the highest priority (data sheet, "interrupt control functions"). Data below the trigger
 * level counts as available, as if the character time-out had expired.
 */
static uint8_t interrupt_id(const struct uart *u)
{
	if ((u->s.ier & UART_IER_RLSI) && (u->s.lsr & UART_LSR_ERRORS))
		return UART_IIR_RLSI;
	if ((u->s.ier & UART_IER_RDI) && data_ready(u))
		return UART_IIR_RDI;
	if ((u->s.ier & UART_IER_THRI) && u->s.thr_pending)
		return UART_IIR_THRI;
	if ((u->s.ier & UART_IER_MSI) && (u->s.msr & UART_MSR_ANY_DELTA))
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

void uart_line_update(struct uart *u)
{
	bool level = interrupt_id(u) != UART_IIR_NO_INT;

	if (level && !u->line) {
		u->stats.irqs++;
		if (u->irq_fd >= 0)
			(void)!eventfd_write(u->irq_fd, 1);
	}
	u->line = level;
}

void uart_modem_update(struct uart *u)
{
	uint8_t lines = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	uint8_t changed;

	if (u->s.mcr & UART_MCR_LOOP) {
		lines = 0;
		if (u->s.mcr & UART_MCR_RTS)
			lines |= UART_MSR_CTS;
		if (u->s.mcr & UART_MCR_DTR)
			lines |= UART_MSR_DSR;
		if (u->s.mcr & UART_MCR_OUT1)
			lines |= UART_MSR_RI;
		if (u->s.mcr & UART_MCR_OUT2)
			lines |= UART_MSR_DCD;
	}
	changed = (u->s.msr ^ lines) & UART_MSR_LINES;
	/* TERI: only a falling RI sets its delta bit. */
	if (lines & UART_MSR_RI)
		changed &= (uint8_t)~UART_MSR_RI;
	u->s.msr = (uint8_t)(lines | (u->s.msr & UART_MSR_ANY_DELTA) | changed >> 4);
}

static bool lcr_dlab(const struct uart *u)
{
	return u->s.lcr & UART_LCR_DLAB;
}

static void write_thr(struct uart *u, uint8_t value)
{
	if (u->s.mcr & UART_MCR_LOOP) {
		uart_fifo_push(u, value);
		u->s.thr_pending = 0;
		uart_line_update(u);
		u->s.thr_pending = 1;
		return;
	}
	if (!(u->s.ier & UART_IER_THRI)) {
		uart_tx_byte(u, value);
		u->s.thr_pending = !u->stalled;
		return;
	}
	/*
	 * Raise the THR-empty interrupt only after the writes that fill the FIFO: at the next access to another
	 * register. A read of IIR comes first: Linux gives up on a port whose IIR never reports "no interrupt pending".
	 * The timer serves a guest that accesses no other register.
	 */
	u->s.thr_pending = 0;
	if (!u->burst) {
		u->burst = true;
		if (!u->stalled)
			uart_timer_arm(u, BURST_US);
	}
	uart_tx_byte(u, value);
}

static void write_ier(struct uart *u, uint8_t value)
{
	uint8_t enabled = value & UART_IER_MASK & ~u->s.ier;

	u->s.ier = value & UART_IER_MASK;
	if (u->tx_len && !u->stalled)
		uart_tx_flush(u);
	/* Enabling the interrupt while the transmitter is empty raises it; Linux tests for that. */
	if ((enabled & UART_IER_THRI) && !u->stalled)
		u->s.thr_pending = 1;
}

static void write_fcr(struct uart *u, uint8_t value)
{
	if ((value & UART_FCR_CLEAR_RCVR) && rx_listening(u))
		rx_drop(u, FIFO_SIZE - u->s.fifo_len);
	if (((value ^ u->s.fcr) & UART_FCR_ENABLE_FIFO) || (value & UART_FCR_CLEAR_RCVR))
		u->s.fifo_len = 0;
	if ((value & UART_FCR_CLEAR_XMIT) && !u->stalled)
		u->s.thr_pending = 1;
	/* The other bits take effect only while the FIFO is enabled. */
	u->s.fcr = value & UART_FCR_ENABLE_FIFO ? value & UART_FCR_MASK : 0;
}

static void write_mcr(struct uart *u, uint8_t value)
{
	u->s.mcr = value & UART_MCR_MASK;
	u->s.seen |= UART_SEEN_MCR;
	if ((u->s.mcr & (UART_MCR_RTS | UART_MCR_LOOP)) == UART_MCR_RTS)
		u->s.seen |= UART_SEEN_RTS;
	uart_modem_update(u);
}

static void write_lcr(struct uart *u, uint8_t value)
{
	uint8_t raised = value & ~u->s.lcr;

	u->s.lcr = value;
	if ((raised & UART_LCR_SBC) && (u->s.mcr & UART_MCR_LOOP)) {
		uart_fifo_push(u, 0);
		u->s.lsr |= UART_LSR_BI;
	}
}

static void reg_write(struct uart *u, uint64_t reg, uint8_t value)
{
	if (reg == UART_TX && !lcr_dlab(u)) {
		write_thr(u, value);
		uart_line_update(u);
		return;
	}
	uart_end_burst(u);
	switch (reg) {
	case UART_TX:
		u->s.dll = value;
		break;
	case UART_IER:
		if (lcr_dlab(u))
			u->s.dlm = value;
		else
			write_ier(u, value);
		break;
	case UART_FCR:
		write_fcr(u, value);
		break;
	case UART_LCR:
		write_lcr(u, value);
		break;
	case UART_MCR:
		write_mcr(u, value);
		break;
	case UART_SCR:
		u->s.scr = value;
		break;
	}
	uart_line_update(u);
}

static uint8_t read_lsr(struct uart *u)
{
	uint8_t value;

	if (u->stalled)
		uart_tx_wait(u);
	value = u->s.lsr | (u->stalled ? 0 : LSR_EMPTY) | (data_ready(u) ? UART_LSR_DR : 0);
	u->s.lsr = 0;
	return value;
}

static uint8_t read_iir(struct uart *u)
{
	uint8_t id = interrupt_id(u);

	if (id == UART_IIR_THRI)
		u->s.thr_pending = 0;
	uart_line_update(u);
	uart_end_burst(u);
	return id | (u->s.fcr & UART_FCR_ENABLE_FIFO ? IIR_FIFO : 0);
}

static uint8_t reg_read(struct uart *u, uint64_t reg)
{
	uint8_t value = 0xff;

	if (reg != UART_IIR)
		uart_end_burst(u);
	switch (reg) {
	case UART_RX:
		value = lcr_dlab(u) ? u->s.dll : rx_byte(u);
		break;
	case UART_IER:
		value = lcr_dlab(u) ? u->s.dlm : u->s.ier;
		break;
	case UART_IIR:
		value = read_iir(u);
		break;
	case UART_LCR:
		value = u->s.lcr;
		break;
	case UART_MCR:
		value = u->s.mcr;
		break;
	case UART_LSR:
		value = read_lsr(u);
		break;
	case UART_MSR:
		value = u->s.msr;
		u->s.msr &= UART_MSR_LINES;
		break;
	case UART_SCR:
		value = u->s.scr;
		break;
	}
	uart_line_update(u);
	return value;
}

/* Split a wide access into single bytes, as the ISA bus does for an 8-bit device. */
bool uart_access(void *ctx, uint64_t offset, uint8_t *data, uint32_t len, bool write)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	for (uint32_t i = 0; i < len; i++) {
		uint64_t reg = offset + i;

		if (write)
			reg_write(u, reg, data[i]);
		else
			data[i] = reg_read(u, reg);
	}
	pthread_mutex_unlock(&u->lock);
	return true;
}

int bus_add_uart(struct bus *bus, uint64_t base, struct uart *uart)
{
	return bus_add(bus, BUS_PIO, base, 8, uart_access, uart);
}
