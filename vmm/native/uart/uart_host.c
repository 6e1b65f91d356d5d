// SPDX-License-Identifier: Apache-2.0
/* The host's side of a UART: creation, input, saved state and counters. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "uart/uart.h"

struct uart *uart_new(int irq_fd, int out_fd, int out_mode, int space_fd)
{
	struct uart *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (u->timer_fd < 0 || pthread_mutex_init(&u->lock, NULL)) {
		if (u->timer_fd >= 0)
			close(u->timer_fd);
		free(u);
		return NULL;
	}
	u->irq_fd = irq_fd;
	u->out_fd = out_fd;
	u->space_fd = space_fd;
	u->drop = out_mode == UART_OUT_DROP;
	u->kind = out_kind(out_fd);
	uart_modem_update(u);
	u->s.msr &= UART_MSR_LINES;
	u->s.thr_pending = 1;
	u->s.dll = 1; /* 115200 baud */
	return u;
}

void uart_free(struct uart *u)
{
	if (!u)
		return;
	uart_tx_flush(u);
	close(u->timer_fd);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

int uart_timer_fd(const struct uart *u)
{
	return u->timer_fd;
}

int64_t uart_flush(struct uart *u)
{
	uint64_t expirations;
	int64_t ret;

	pthread_mutex_lock(&u->lock);
	(void)!read(u->timer_fd, &expirations, sizeof(expirations));
	u->rx_paused = false;
	uart_tx_flush(u);
	uart_end_burst(u);
	uart_line_update(u);
	ret = u->tx_len;
	if (u->out_errno) {
		ret = -u->out_errno;
		u->told_errno = u->out_errno;
		u->out_errno = 0;
	}
	pthread_mutex_unlock(&u->lock);
	return ret;
}

int64_t uart_input(struct uart *u, const uint8_t *data, uint64_t len)
{
	uint64_t room, tail, first;

	pthread_mutex_lock(&u->lock);
	room = UART_RX_SIZE - u->s.rx_len;
	if (len > room) {
		len = room;
		u->rx_full = true;
	}
	tail = (u->rx_head + u->s.rx_len) % UART_RX_SIZE;
	first = len < UART_RX_SIZE - tail ? len : UART_RX_SIZE - tail;
	memcpy(u->s.rx + tail, data, first);
	memcpy(u->s.rx, data + first, len - first);
	u->s.rx_len += (uint32_t)len;
	uart_line_update(u);
	pthread_mutex_unlock(&u->lock);
	return (int64_t)len;
}

void uart_break(struct uart *u)
{
	pthread_mutex_lock(&u->lock);
	uart_fifo_push(u, 0);
	u->s.lsr |= UART_LSR_BI;
	uart_line_update(u);
	pthread_mutex_unlock(&u->lock);
}

void uart_save(struct uart *u, struct uart_state *out)
{
	uint32_t first;

	pthread_mutex_lock(&u->lock);
	uart_tx_flush(u);
	uart_end_burst(u);
	uart_line_update(u);
	*out = u->s;
	/* The restored UART starts with an empty transmitter; this one writes the remaining output. */
	if (u->stalled)
		out->thr_pending = 1;
	first = UART_RX_SIZE - u->rx_head;
	memcpy(out->rx, u->s.rx + u->rx_head, first);
	memcpy(out->rx + first, u->s.rx, u->rx_head);
	memset(out->rx + out->rx_len, 0, UART_RX_SIZE - out->rx_len);
	pthread_mutex_unlock(&u->lock);
}

int uart_restore(struct uart *u, const struct uart_state *state)
{
	if (state->rx_len > UART_RX_SIZE || state->fifo_len > UART_FIFO_SIZE || (state->ier & ~UART_IER_MASK) ||
	    (state->mcr & ~UART_MCR_MASK) || (state->fcr & ~UART_FCR_MASK) || (state->lsr & ~UART_LSR_ERRORS))
		return -EINVAL;
	pthread_mutex_lock(&u->lock);
	u->s = *state;
	u->rx_head = 0;
	u->burst = false;
	/* Signal the edge again: it may have been lost, and a spurious one is harmless. */
	u->line = false;
	uart_line_update(u);
	pthread_mutex_unlock(&u->lock);
	return 0;
}

void uart_get_stats(struct uart *u, struct uart_stats *out)
{
	pthread_mutex_lock(&u->lock);
	*out = u->stats;
	pthread_mutex_unlock(&u->lock);
}
