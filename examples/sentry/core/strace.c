// SPDX-License-Identifier: Apache-2.0
/* Prints system calls as strace does. Whatever a program gave is shown in letters that a terminal does not obey. */
#include "core.h"

struct line {
	char text[512];
	u32 size;
};

static void put(struct line *line, char c)
{
	if (line->size < sizeof(line->text))
		line->text[line->size++] = c;
}

static void put_text(struct line *line, const char *text)
{
	while (*text)
		put(line, *text++);
}

static void put_number(struct line *line, u64 value, u32 base)
{
	char digits[20];
	u32 count = 0;

	do
		digits[count++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (count)
		put(line, digits[--count]);
}

static void put_signed(struct line *line, s64 value)
{
	if (value < 0)
		put(line, '-');
	put_number(line, value < 0 ? -(u64)value : (u64)value, 10);
}

static void put_hex(struct line *line, u64 value)
{
	put_text(line, value ? "0x" : "");
	put_number(line, value, 16);
}

static void put_string(struct task *t, struct line *line, u64 from)
{
	char text[33];
	s64 size = user_string(t->mm, text, from, 32);

	if (size == -EFAULT) {
		put_hex(line, from);
		return;
	}
	put(line, '"');
	for (s64 i = 0; i < (size < 0 ? 32 : size); i++) {
		u8 c = (u8)text[i];

		if (c == '"' || c == '\\')
			put(line, '\\');
		if (c >= ' ' && c < 127) {
			put(line, (char)c);
		} else {
			put_text(line, "\\x");
			put(line, "0123456789abcdef"[c >> 4]);
			put(line, "0123456789abcdef"[c & 15]);
		}
	}
	put_text(line, size < 0 ? "\"..." : "\"");
}

void log_text(const char *text)
{
	core.ops->log(text, string_size(text));
}

void strace_call(struct task *t, u64 number, const u64 *args, s64 result)
{
	const struct syscall *call = number < SYSCALLS && syscalls[number].name ? &syscalls[number] : NULL;
	struct line line = { .size = 0 };

	put_text(&line, call ? call->name : "syscall_");
	if (!call)
		put_number(&line, number, 10);
	put(&line, '(');
	for (u32 i = 0; i < (call ? call->count : 6); i++) {
		put_text(&line, i ? ", " : "");
		switch (call ? call->arguments[i] : ARG_HEX) {
		case ARG_INT: case ARG_FD: put_signed(&line, (s32)args[i]); break;
		case ARG_SIZE: put_number(&line, args[i], 10); break;
		case ARG_STRING: put_string(t, &line, args[i]); break;
		default: put_hex(&line, args[i]);
		}
	}
	put_text(&line, ") = ");
	if (t->process->ended) {
		put(&line, '?');
	} else if (result < 0 && result > -4096) {
		put_text(&line, "-1 ");
		put_text(&line, (u64)-result < errno_count && errnos[-result] ? errnos[-result] : "E?");
	} else if ((u64)result > 0xffffffff) {
		put_hex(&line, (u64)result);
	} else {
		put_signed(&line, result);
	}
	line.size = line.size < sizeof(line.text) ? line.size : sizeof(line.text) - 1;
	put(&line, '\n');
	core.ops->log(line.text, line.size);
}

/* Which system calls the program made that are not there, and how often. */
void strace_unknown(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(core.unknown); i++) {
		struct line line = { .size = 0 };

		if (!core.unknown[i])
			continue;
		put_text(&line, "not there: system call ");
		put_number(&line, i, 10);
		put_text(&line, i + 1 == ARRAY_SIZE(core.unknown) ? " or above, " : ", ");
		put_number(&line, core.unknown[i], 10);
		put_text(&line, " times\n");
		core.ops->log(line.text, line.size);
	}
}
