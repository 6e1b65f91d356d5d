// SPDX-License-Identifier: Apache-2.0
/*
 * The output of a UART to a host descriptor.
 *
 * Output is buffered by lines: a boot prints kilobytes, one byte per exit, and a system call for each would be
 * expensive. The buffer is written
 *   - at a newline, or when it has BATCH bytes;
 *   - when the guest writes IER: a Linux console does so after each message, a Linux tty when it has nothing more to
 *   send;
 *   - at the latest when the timer fires and the owner calls uart_flush().
 *
 * With UART_OUT_BLOCK a full out_fd stalls the UART: LSR reports a full transmitter until everything is written. If the
 * guest polls LSR, each read waits up to WAIT_MS without the lock; the signal of vcpu_kick() ends the wait. If the
 * guest uses the interrupt, that is delayed. When out_fd is writable, the owner calls uart_flush(), which continues.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>

#include "uart/uart.h"

enum {
	BATCH = 512,
	WAIT_MS = 20,
	WAIT_FULL = 50,	 /* how often to wait for a guest that ignores a full transmitter in LSR */
	HURRY_US = 200000, /* after a signal, do not wait for this long: the vCPU is being stopped */
	LINE_US = 10000, /* an unfinished line is written after this time */
};

uint64_t uart_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void uart_timer_arm(struct uart *u, long us)
{
	struct itimerspec when = { .it_value = { .tv_nsec = us * 1000 } };

	/* A pause of the input has already armed the timer; continuous output must not postpone it. */
	if (u->rx_paused && us > 1)
		return;
	timerfd_settime(u->timer_fd, 0, &when, NULL);
}

static ssize_t tx_write(struct uart *u, const uint8_t *data, size_t len)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };

	u->stats.tx_writes++;
	return out_write(u->kind, u->out_fd, &iov, 1);
}

static void tx_fail(struct uart *u, int err)
{
	u->stats.tx_dropped += u->tx_len;
	u->tx_len = 0;
	if (u->drop || err == u->told_errno)
		return;
	u->out_errno = err;
	uart_timer_arm(u, 1);
}

void uart_tx_flush(struct uart *u)
{
	uint32_t done = 0;
	int err = 0;
	bool was_stalled = u->stalled;

	while (done < u->tx_len) {
		ssize_t n = tx_write(u, u->tx + done, u->tx_len - done);

		if (n > 0) {
			done += (uint32_t)n;
			continue;
		}
		err = n ? errno : EAGAIN;
		if (err == EINTR && u->drop)
			continue;
		break;
	}
	if (done) {
		u->stats.tx_bytes += done;
		u->gave_up = false;
		memmove(u->tx, u->tx + done, u->tx_len - done);
		u->tx_len -= done;
	}
	if (u->tx_len && (u->drop || (err != EAGAIN && err != EINTR)))
		tx_fail(u, err);
	u->stalled = u->tx_len > 0;
	if (u->stalled && !was_stalled)
		uart_timer_arm(u, 1);
	if (was_stalled && !u->stalled)
		u->s.thr_pending = 1;
}

bool uart_tx_wait(struct uart *u)
{
	struct pollfd pfd = { .fd = u->out_fd, .events = POLLOUT };
	bool interrupted;

	if (uart_now_us() < u->hurry_until)
		return false;
	pthread_mutex_unlock(&u->lock);
	interrupted = poll(&pfd, 1, WAIT_MS) < 0;
	pthread_mutex_lock(&u->lock);
	if (interrupted)
		u->hurry_until = uart_now_us() + HURRY_US;
	if (u->stalled)
		uart_tx_flush(u);
	return !interrupted;
}

void uart_tx_byte(struct uart *u, uint8_t byte)
{
	if (u->kind == OUT_NONE) {
		u->stats.tx_bytes++;
		return;
	}
	for (int i = 0; u->tx_len == UART_TX_SIZE && i < WAIT_FULL && !u->gave_up; i++) {
		if (!uart_tx_wait(u))
			break;
	}
	if (u->tx_len == UART_TX_SIZE) {
		u->gave_up = true;
		u->stats.tx_dropped++;
		return;
	}
	u->tx[u->tx_len++] = byte;
	if (u->stalled)
		return;
	if (byte == '\n' || u->tx_len >= BATCH)
		uart_tx_flush(u);
	else if (u->tx_len == 1 && !u->burst)
		uart_timer_arm(u, LINE_US);
}
