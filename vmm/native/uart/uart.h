/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A UART: uart.c implements the guest's registers, uart_out.c output to the host, uart_host.c the functions for the
 * host's side.
 */
#ifndef VMM_NATIVE_UART_H
#define VMM_NATIVE_UART_H

#include <linux/serial_reg.h>
#include <pthread.h>

#include "base/native.h"

/* ==== for Python ==== */

enum { UART_RX_SIZE = 4096, UART_FIFO_SIZE = 16 };
enum { UART_OUT_BLOCK = 0, UART_OUT_DROP = 1 };
/* Bits of uart_state.seen: since the last reset, the driver wrote MCR; the driver set RTS. */
enum { UART_SEEN_MCR = 1, UART_SEEN_RTS = 2 };

/* The guest-visible state of a UART, saved and restored as plain data. */
struct uart_state {
	uint8_t ier, lcr, lsr, mcr, msr, scr, fcr, dll, dlm, thr_pending, seen, fifo_len;
	uint8_t fifo[16]; /* bytes from loopback mode or a break, which are read before rx */
	uint32_t rx_len;
	uint8_t rx[4096]; /* input from the host */
};

struct uart_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes, irqs;
};

/*
 * irq_fd: an eventfd that is signalled at each rising edge of the interrupt line.
 * out_fd: receives the guest's output, preferably non-blocking; -1: discard it. With UART_OUT_BLOCK the guest waits for
 * a slow reader. UART_OUT_DROP drops and counts the bytes that the reader does not accept.
 * space_fd: an eventfd that is signalled when uart_input() accepts bytes again after it was full; or -1.
 */
struct uart *uart_new(int irq_fd, int out_fd, int out_mode, int space_fd);
/* Write what out_fd accepts without blocking, then free u. To lose no output, call uart_flush() until it returns 0. */
void uart_free(struct uart *uart);
/* A descriptor that becomes readable when uart_flush() is due. The UART owns it. */
int uart_timer_fd(const struct uart *uart);
/*
 * Write the buffered output, and end a pause of the input. Returns the bytes that out_fd did not accept: call again
 * when it is writable. Or -errno of out_fd, once for each errno.
 */
int64_t uart_flush(struct uart *uart);
/* The guest's access to len registers from offset, called by the bus. Always returns true. */
bool uart_access(void *uart, uint64_t offset, uint8_t *data, uint32_t len, bool write);
/* Queue input for the guest. Returns the bytes accepted; 0: full. */
int64_t uart_input(struct uart *uart, const uint8_t *data, uint64_t len);
/* Send a break to the guest. */
void uart_break(struct uart *uart);
void uart_save(struct uart *uart, struct uart_state *out);
/* -EINVAL: uart_save() cannot return such a state. */
int uart_restore(struct uart *uart, const struct uart_state *state);
void uart_get_stats(struct uart *uart, struct uart_stats *out);

/* ==== end ==== */

enum { UART_TX_SIZE = 4096 };

/* The register bits that the guest can set, and the LSR bits that a saved state may contain. */
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

	struct uart_state s; /* here rx[] is a ring that begins at rx_head; in a saved state it begins at 0 */
	uint32_t rx_head;
	bool rx_full; /* uart_input() accepted less than it received */
	bool rx_paused; /* input pauses until the timer fires */
	uint32_t rx_burst; /* bytes since the last pause */
	uint64_t rx_since; /* when the first of them was read, in us */

	bool line;    /* the level of the interrupt line */
	bool burst;   /* the guest is writing to THR: the THR-empty interrupt follows */
	bool stalled; /* out_fd is full: tx[] waits for uart_flush() */
	bool gave_up; /* tx[] was full for WAIT_FULL slices: drop bytes without waiting */
	uint64_t hurry_until;
	int out_errno, told_errno;
	uint32_t tx_len;
	uint8_t tx[UART_TX_SIZE];
	struct uart_stats stats;
};

/* Callers of these functions hold the lock. */
/* Set the interrupt line from the state. */
void uart_line_update(struct uart *u);
/* Update the modem status. The peer is always ready; in loopback mode the inputs follow our own outputs. */
void uart_modem_update(struct uart *u);
/* Add a byte from loopback mode or a break, which is read before rx[]. */
void uart_fifo_push(struct uart *u, uint8_t byte);
/* The guest has stopped writing to THR: allow the THR-empty interrupt. */
void uart_end_burst(struct uart *u);
uint64_t uart_now_us(void);
/* Arm the timer, so that uart_flush() is called after this time at the latest. */
void uart_timer_arm(struct uart *u, long us);
/* Write the buffered output. The rest is kept (UART_OUT_BLOCK) or dropped (UART_OUT_DROP). */
void uart_tx_flush(struct uart *u);
/* Buffer a byte for the next flush. While the buffer is full, releases the lock and waits. */
void uart_tx_byte(struct uart *u, uint8_t byte);
/* Release the lock and wait briefly for out_fd. False: the vCPU is being stopped, so do not wait again. */
bool uart_tx_wait(struct uart *u);

#endif
