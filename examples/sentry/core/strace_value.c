// SPDX-License-Identifier: Apache-2.0
/* Prints numbers as strace does: with the names of their bits or values. */
#include "core.h"
#include "strace.h"

void line_put(struct line *line, char c)
{
	if (line->size < sizeof(line->text) - 1) /* with room for the end of the line */
		line->text[line->size++] = c;
}

void line_text(struct line *line, const char *text)
{
	while (*text)
		line_put(line, *text++);
}

void line_number(struct line *line, u64 value, u32 base)
{
	char digits[22];
	u32 count = 0;

	do
		digits[count++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (count)
		line_put(line, digits[--count]);
}

void line_signed(struct line *line, s64 value)
{
	if (value < 0)
		line_put(line, '-');
	line_number(line, value < 0 ? -(u64)value : (u64)value, 10);
}

void line_hex(struct line *line, u64 value)
{
	line_text(line, value ? "0x" : "");
	line_number(line, value, 16);
}

void line_address(struct line *line, u64 value)
{
	if (value)
		line_hex(line, value);
	else
		line_text(line, "NULL");
}

void line_octal(struct line *line, u64 value, u32 digits)
{
	line_put(line, '0');
	for (u32 i = digits - 1; i > 1 && !(value >> 3 * (i - 1)); i--)
		line_put(line, '0');
	line_number(line, value, 8);
}

/* Whatever a program gave is shown in letters that a terminal does not obey. */
void line_bytes(struct line *line, const u8 *bytes, u64 size, bool more)
{
	static const char letters[] = "tnvfr"; /* from 9 on */

	line_put(line, '"');
	for (u64 i = 0; i < size; i++) {
		u8 c = bytes[i];

		if (c >= ' ' && c < 127) {
			line_text(line, c == '"' || c == '\\' ? "\\" : "");
			line_put(line, (char)c);
		} else if (c >= 9 && c < 14) {
			line_put(line, '\\');
			line_put(line, letters[c - 9]);
		} else {
			bool digit = i + 1 < size && bytes[i + 1] >= '0' && bytes[i + 1] <= '7';

			line_put(line, '\\');
			for (u32 shift = 6; digit && shift && !(c >> shift); shift -= 3)
				line_put(line, '0');
			line_number(line, c, 8);
		}
	}
	line_text(line, more ? "\"..." : "\"");
}

/* -- names -- */

static const struct trace_name *find_name(const struct trace_set *set, u64 value)
{
	for (u32 i = 0; i < set->count; i++)
		if (set->names[i].value == value)
			return &set->names[i];
	return NULL;
}

static void put_one(struct line *line, const struct trace_set *set, u64 value)
{
	const struct trace_name *found = find_name(set, value);

	if (found)
		line_text(line, found->name);
	else
		line_hex(line, value);
	if (!found)
		line_text(line, " /* ? */");
}

static void put_flags(struct line *line, const struct trace_set *set, u64 value)
{
	const struct trace_name *field = set->mask ? find_name(set, value & set->mask) : NULL;
	u64 rest = field ? value & ~set->mask : value;
	bool any = field != NULL;

	if (field)
		line_text(line, field->name);
	for (u32 i = 0; i < set->count; i++) {
		u64 bits = set->names[i].value;

		if (!bits || bits & set->mask || (rest & bits) != bits)
			continue;
		line_text(line, any ? "|" : "");
		line_text(line, set->names[i].name);
		rest &= ~bits;
		any = true;
	}
	if (rest || (!any && !set->zero)) {
		line_text(line, any ? "|" : "");
		line_hex(line, rest);
		line_text(line, any || !rest ? "" : " /* ? */");
	} else if (!any) {
		line_text(line, set->zero);
	}
}

static void put_signal(struct line *line, u64 number, bool prefix)
{
	const struct trace_name *found = find_name(&trace_sets[trace_signal_set], number);

	if (found) {
		line_text(line, found->name + (prefix ? 0 : 3));
	} else if (number > 34 && number <= SIGNALS) {
		line_text(line, prefix ? "SIGRT_" : "RT_");
		line_number(line, number - 32, 10);
	} else {
		line_signed(line, (s32)number);
	}
}

static void put_signal_set(struct line *line, u64 set)
{
	bool most, any = false;
	u32 count = 0;

	for (u64 rest = set; rest; rest &= rest - 1)
		count++;
	most = count > SIGNALS / 2;
	line_text(line, most ? "~[" : "[");
	for (u32 i = 0; i < SIGNALS; i++) {
		if ((set >> i & 1) == most)
			continue;
		line_text(line, any ? " " : "");
		put_signal(line, i + 1, false);
		any = true;
	}
	line_put(line, ']');
}

static void put_mode(struct line *line, u64 mode)
{
	const struct trace_name *type = find_name(&trace_sets[trace_type_set], mode & 0170000);

	if (type) {
		line_text(line, type->name);
		line_put(line, '|');
	}
	line_octal(line, type ? mode & 07777 : mode, 3);
}

static void put_limit(struct line *line, u64 limit)
{
	if (limit == ~0ull) {
		line_text(line, "RLIM64_INFINITY");
	} else if (limit > 1024 && limit % 1024 == 0) {
		line_number(line, limit / 1024, 10);
		line_text(line, "*1024");
	} else {
		line_number(line, limit, 10);
	}
}

static void put_status(struct line *line, u32 status)
{
	u32 low = status & 0x7f;

	if (status == 0xffff) {
		line_text(line, "{WIFCONTINUED(s)}");
	} else if (low == 0x7f) {
		line_text(line, "{WIFSTOPPED(s) && WSTOPSIG(s) == ");
		put_signal(line, status >> 8 & 0xff, true);
		line_put(line, '}');
	} else if (low) {
		line_text(line, "{WIFSIGNALED(s) && WTERMSIG(s) == ");
		put_signal(line, low, true);
		line_text(line, status & 0x80 ? " && WCOREDUMP(s)}" : "}");
	} else {
		line_text(line, "{WIFEXITED(s) && WEXITSTATUS(s) == ");
		line_number(line, status >> 8 & 0xff, 10);
		line_put(line, '}');
	}
}

static void put_futex(struct line *line, u64 operation)
{
	enum { PRIVATE = 128, REALTIME = 256 };

	put_one(line, &trace_sets[trace_futex_set], operation & ~(u64)(PRIVATE | REALTIME));
	line_text(line, operation & PRIVATE ? "_PRIVATE" : "");
	line_text(line, operation & REALTIME ? "|FUTEX_CLOCK_REALTIME" : "");
}

static void put_device(struct line *line, u64 device)
{
	line_text(line, "makedev(");
	line_hex(line, (device >> 8 & 0xfff) | (device >> 32 & 0xfffff000));
	line_text(line, ", ");
	line_hex(line, (device & 0xff) | (device >> 12 & 0xffffff00));
	line_put(line, ')');
}

void line_value(struct line *line, u8 kind, u8 detail, u64 value)
{
	u32 low = (u32)value;

	switch (kind) {
	case T_DIRFD:
		if ((s32)low == AT_FDCWD)
			line_text(line, "AT_FDCWD");
		else
			line_signed(line, (s32)low);
		break;
	case T_ID: case T_INT: case T_FD: line_signed(line, (s32)low); break;
	case T_UINT: line_number(line, low, 10); break;
	case T_USHORT: line_number(line, value & 0xffff, 10); break;
	case T_LONG: case T_FILE_SIZE: line_signed(line, (s64)value); break;
	case T_ULONG: case T_SIZE: line_number(line, value, 10); break;
	case T_HEX32: line_hex(line, low); break;
	case T_ADDR: case T_RESTORER: line_address(line, value); break;
	case T_SIGNAL: put_signal(line, low, true); break;
	case T_MODE: case T_CREATE_MODE: line_octal(line, low, 3); break;
	case T_MODE64: line_octal(line, value, 3); break;
	case T_FILE_MODE: put_mode(line, low); break;
	case T_USHORT_MODE: put_mode(line, value & 0xffff); break;
	case T_FLAGS: put_flags(line, &trace_sets[detail], low); break;
	case T_FLAGS64: put_flags(line, &trace_sets[detail], value); break;
	case T_ONE: put_one(line, &trace_sets[detail], low); break;
	case T_FUTEX: put_futex(line, low); break;
	case T_LIMIT: put_limit(line, value); break;
	case T_HANDLER:
		if (value > SIG_IGN)
			line_hex(line, value);
		else
			line_text(line, value == SIG_IGN ? "SIG_IGN" : "SIG_DFL");
		break;
	case T_SIGSET: put_signal_set(line, value); break;
	case T_DEVICE: put_device(line, value); break;
	case T_WAIT_STATUS: put_status(line, low); break;
	default: line_hex(line, value);
	}
}
