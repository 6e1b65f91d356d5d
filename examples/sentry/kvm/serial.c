// SPDX-License-Identifier: Apache-2.0
/* The serial port: the console of a machine without a virtio console, and where the kernel itself writes. */
#include "kvm.h"
#include "virtio/virtio.h"

enum { COM1 = 0x3f8, ENABLE = COM1 + 1, MODEM = COM1 + 4, LINE_STATUS = COM1 + 5 };
enum { READY = 1, EMPTY = 0x20, END_OF_INPUT = 4, ON_INPUT = 1, LINES = 0x0b /* DTR, RTS, and OUT2 for interrupts */ };
enum { PATIENCE = 1000000 }; /* nanoseconds */

void serial_init(void)
{
	out(MODEM, LINES);
	out(ENABLE, ON_INPUT);
	pin_enable(SERIAL_PIN);
}

static bool input_ended; /* by a byte behind others, which are returned first */
static volatile bool has_interrupted = true; /* since there was nothing to read */

void serial_arrived(void)
{
	has_interrupted = true;
}

/*
 * Looking takes an exit, and who waits does so twice: only after an interrupt, of which there is none for bytes that follow
 * others.  Nobody reads from here where there is a virtio console.
 */
bool serial_ready(void)
{
	if (console_is_there() || !(input_ended || has_interrupted))
		return false;
	has_interrupted = false; /* before the look: another CPU may take the next one, and set it */
	if (!input_ended && !(in(LINE_STATUS) & READY))
		return false;
	has_interrupted = true;
	return true;
}

static void put_char(char c)
{
	while (!(in(LINE_STATUS) & EMPTY))
		;
	out(COM1, (u8)c);
}

void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

void put_hex(const char *name, u64 value)
{
	put_text(name);
	for (int shift = 60; shift >= 0; shift -= 4)
		put_char("0123456789abcdef"[value >> shift & 15]);
}

void put_decimal(u64 value)
{
	if (value >= 10)
		put_decimal(value / 10);
	put_char((char)('0' + value % 10));
}

s64 serial_read(void *data, u64 size)
{
	u8 *at = data;
	u64 got = 0;

	while (!input_ended && got < size && (!got || serial_ready())) {
		u8 byte;

		while (!serial_ready())
			wait_until(monotonic() + PATIENCE); /* another CPU may get the interrupt */
		byte = in(COM1);
		input_ended = byte == END_OF_INPUT;
		if (!input_ended)
			at[got++] = byte;
	}
	input_ended = input_ended && got;
	return (s64)got;
}

s64 serial_write(int stream, const void *data, u64 size)
{
	(void)stream;
	for (u64 i = 0; i < size; i++)
		put_char(((const char *)data)[i]);
	return (s64)size;
}
