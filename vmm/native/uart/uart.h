/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the UART: uart.c is what the guest sees, uart_out.c writes what it sends, uart_host.c is what its owner
 * calls. */
#ifndef VMM_NATIVE_UART_H
#define VMM_NATIVE_UART_H

#include <linux/serial_reg.h>
#include <pthread.h>

#include "base/native.h"

/* ==== for Python ==== */

enum { UART_RX_SIZE = 4096, UART_FIFO_SIZE = 16 };
enum { UART_OUT_BLOCK = 0, UART_OUT_DROP = 1 };
/* What the driver has done since reset, in uart_state.seen: written MCR; asserted RTS. */
enum { UART_SEEN_MCR = 1, UART_SEEN_RTS = 2 };

/* Everything the guest can see of a UART: it can be saved and restored as plain data. */
struct uart_state {
	uint8_t ier, lcr, lsr, mcr, msr, scr, fcr, dll, dlm, thr_pending, seen, fifo_len;
	uint8_t fifo[16]; /* received in loopback, or a break: read before rx */
	uint32_t rx_len;
	uint8_t rx[4096]; /* from the host */
};

struct uart_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes, irqs;
};

/*
 * irq_fd: eventfd signalled on every rising edge of the interrupt line.
 * out_fd: where the guest's bytes go, -1 for nowhere. UART_OUT_BLOCK: a slow reader holds the guest up;
 * UART_OUT_DROP: what does not fit is dropped and counted. Better non-blocking, but need not be.
 * space_fd: eventfd signalled when uart_input() can take bytes again after it was full, or -1.
 */
struct uart *uart_new(int irq_fd, int out_fd, int out_mode, int space_fd);
/* Writes what it can without waiting; to lose nothing, call uart_flush() until it returns 0 before. */
void uart_free(struct uart *uart);
/* Readable when uart_flush() has something to do: output and input wait for it. Belongs to the UART. */
int uart_timer_fd(const struct uart *uart);
/* Write what was collected, let input go on. Returns how many bytes still wait for out_fd (call again when it is writable), or -errno of
 * out_fd, once per kind of error. */
int64_t uart_flush(struct uart *uart);
/* An access of the guest to len registers from offset on; always answered. What the bus calls. */
bool uart_access(void *uart, uint64_t offset, uint8_t *data, uint32_t len, bool write);
/* Bytes for the guest; returns how many were taken (0 when full). */
int64_t uart_input(struct uart *uart, const uint8_t *data, uint64_t len);
/* The other end sends a break. */
void uart_break(struct uart *uart);
void uart_save(struct uart *uart, struct uart_state *out);
/* -EINVAL when the state is not one that uart_save() returns. */
int uart_restore(struct uart *uart, const struct uart_state *state);
void uart_get_stats(struct uart *uart, struct uart_stats *out);

/* ==== end ==== */

enum { UART_TX_SIZE = 4096 };

/* Bits that can be set, and what stays latched in a saved LSR. */
enum {
	UART_LSR_ERRORS = UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI,
	UART_IER_MASK = UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI,
	UART_MCR_MASK = UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP,
	UART_FCR_MASK = UART_FCR_ENABLE_FIFO | UART_FCR_DMA_SELECT | UART_FCR_TRIGGER_MASK,
	UART_MSR_LINES = 0xf0,
};

struct uart {
	pthread_mutex_t lock;
	int irq_fd, out_fd, space_fd, timer_fd;
	bool drop;
	enum out_kind kind;

	struct uart_state s; /* rx[] is used as a ring from rx_head here, in order from 0 in a saved state */
	uint32_t rx_head;
	bool rx_full; /* uart_input() took less than it was given */
	bool rx_paused; /* no more input until the timer has fired */
	uint32_t rx_burst; /* bytes since the last pause */
	uint64_t rx_since; /* when the first of them was read, in microseconds */

	bool line;    /* level of the interrupt line */
	bool burst;   /* bytes of a FIFO load came in: the interrupt for "empty" follows its end */
	bool stalled; /* out_fd takes no more: tx[] waits for uart_flush() */
	bool gave_up; /* a full tx[] did not move for WAIT_FULL slices */
	uint64_t hurry_until;
	int out_errno, told_errno;
	uint32_t tx_len;
	uint8_t tx[UART_TX_SIZE];
	struct uart_stats stats;
};

/* All with the lock held. */
/* Set the interrupt line to what the state asks for. */
void uart_line_update(struct uart *u);
/* The modem lines follow the other end, which is always there, or in loopback our own outputs. */
void uart_modem_update(struct uart *u);
/* A byte that the host side did not queue: loopback, break. It comes before what waits in rx[]. */
void uart_fifo_push(struct uart *u, uint8_t byte);
/* The load of the FIFO is complete: the interrupt for "empty" may come. */
void uart_end_burst(struct uart *u);
uint64_t uart_now_us(void);
/* uart_flush() has something to do after so long, or sooner. */
void uart_timer_arm(struct uart *u, long us);
/* Write what was collected; what does not fit stays (UART_OUT_BLOCK) or goes (UART_OUT_DROP). */
void uart_tx_flush(struct uart *u);
/* Collect a byte; it leaves with the next flush. Waits, without the lock, while there is no room. */
void uart_tx_byte(struct uart *u, uint8_t byte);
/* Hold the guest up for a moment, without the lock. False when there is no point in going on. */
bool uart_tx_wait(struct uart *u);

#endif
