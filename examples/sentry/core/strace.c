// SPDX-License-Identifier: Apache-2.0
/*
 * Prints system calls as strace does, one line each.
 *
 * Arguments are printed before the call, which can change them; results, after it.
 */
#include "core.h"
#include "strace.h"
#include "vfs/file_abi.h"

enum { SHOWN = 32, ELEMENTS = 8, LARGEST = 400 };

void log_text(const char *text)
{
	core.ops->log(text, string_size(text));
}

static void log_line(struct line *line)
{
	line->text[line->size++] = '\n'; /* line_put() leaves room for it */
	core.ops->log(line->text, line->size);
}

/* -- what addresses lead to -- */

static u64 load(const u8 *from, u32 width)
{
	u64 value = 0;

	bytes_copy(&value, from, width);
	return value;
}

static u32 width_of(u8 kind)
{
	if (kind == T_USHORT || kind == T_USHORT_MODE)
		return 2;
	return kind < T_USHORT ? 4 : 8;
}

/* Of a device file the number is printed and not the size; of a signal's action, what it has. */
static bool is_left_out(u8 kind, u64 value, u32 mode)
{
	bool device = S_ISCHR(mode) || S_ISBLK(mode);

	return kind == T_DEVICE ? !device : kind == T_FILE_SIZE ? device : kind == T_RESTORER && !value;
}

static void put_struct(struct line *line, const struct trace_type *type, const u8 *data)
{
	u32 mode = 0;

	line_put(line, '{');
	for (u32 i = 0; i < type->count; i++) {
		const struct trace_field *field = &type->fields[i];
		const u8 *at = data + field->offset;

		if (field->kind == T_FILE_MODE)
			mode = (u32)load(at, 4);
		if (is_left_out(field->kind, field->kind == T_CHARS ? 0 : load(at, width_of(field->kind)), mode))
			continue;
		line_text(line, i ? ", " : "");
		line_text(line, field->name);
		line_put(line, '=');
		if (field->kind == T_STRUCT)
			put_struct(line, &trace_types[field->detail], at);
		else if (field->kind == T_CHARS)
			line_bytes(line, at, string_size((const char *)at), false);
		else
			line_value(line, field->kind, field->detail, load(at, width_of(field->kind)));
	}
	line_text(line, type->more ? ", ...}" : "}");
}

static void put_pair(struct line *line, const struct trace_type *type, const u8 *data)
{
	line_put(line, '[');
	put_struct(line, &trace_types[type->detail], data);
	line_text(line, ", ");
	put_struct(line, &trace_types[type->detail], data + trace_types[type->detail].size);
	line_put(line, ']');
}

static void put_epoll_event(struct line *line, const u8 *data)
{
	line_text(line, "{events=");
	line_value(line, T_FLAGS, trace_epoll_set, load(data, 4));
	line_text(line, ", data={u32=");
	line_number(line, load(data + 4, 4), 10);
	line_text(line, ", u64=");
	line_number(line, load(data + 4, 8), 10);
	line_text(line, "}}");
}

static void put_typed(struct line *line, const struct trace_type *type, const u8 *data)
{
	switch (type->kind) {
	case T_STRUCT: put_struct(line, type, data); return;
	case T_PAIR: put_pair(line, type, data); return;
	case T_EPOLL_EVENT: put_epoll_event(line, data); return;
	case T_SIGSET: line_value(line, T_SIGSET, 0, load(data, 8)); return;
	}
	line_put(line, '[');
	if (type->kind == T_FD_PAIR) {
		line_signed(line, (s32)load(data, 4));
		line_text(line, ", ");
		line_signed(line, (s32)load(data + 4, 4));
	} else {
		line_value(line, type->kind, 0, load(data, width_of(type->kind)));
	}
	line_put(line, ']');
}

static void put_pointed(struct task *t, struct line *line, u8 number, u64 address)
{
	const struct trace_type *type = &trace_types[number];
	u8 data[LARGEST];

	if (!address || type->size > sizeof(data) || type->kind == T_MSGHDR || user_read(t->mm, data, address, type->size))
		line_address(line, address);
	else
		put_typed(line, type, data);
}

static void put_string(struct task *t, struct line *line, u64 from, u64 most)
{
	char text[256];
	s64 size = from ? user_string(t->mm, text, from, most < sizeof(text) ? most : sizeof(text)) : -EFAULT;

	if (size == -EFAULT)
		line_address(line, from);
	else
		line_bytes(line, (const u8 *)text, size < 0 ? (most < sizeof(text) ? most : sizeof(text)) : (u64)size, size < 0);
}

static void put_buffer(struct task *t, struct line *line, u64 from, u64 size)
{
	u8 bytes[SHOWN];
	u64 shown = size < SHOWN ? size : SHOWN;

	if (!from || user_read(t->mm, bytes, from, shown))
		line_address(line, from);
	else
		line_bytes(line, bytes, shown, size > SHOWN);
}

static void put_strings(struct task *t, struct line *line, u64 from, bool counted)
{
	u64 text = 0, count = 0;

	if (!from || user_read(t->mm, &text, from, sizeof(text))) {
		line_address(line, from);
		return;
	}
	line_text(line, counted ? "" : "[");
	for (; text; count++) {
		if (!counted) {
			line_text(line, count ? ", " : "");
			if (count == SHOWN) {
				line_text(line, "...");
				break;
			}
			put_string(t, line, text, sizeof(line->text));
		}
		if (user_read(t->mm, &text, from + (count + 1) * sizeof(text), sizeof(text)))
			break;
	}
	if (!counted) {
		line_put(line, ']');
		return;
	}
	line_hex(line, from);
	line_text(line, " /* ");
	line_number(line, count, 10);
	line_text(line, count == 1 ? " var */" : " vars */");
}

/* -- arrays -- */

/* At most *left bytes of the vectors have been read or are written. */
static void put_vectors(struct task *t, struct line *line, u64 from, u64 count, u64 left)
{
	struct iovec vector;

	if (!from || (count && user_read(t->mm, &vector, from, sizeof(vector)))) {
		line_address(line, from);
		return;
	}
	line_put(line, '[');
	for (u64 i = 0; i < count && i < ELEMENTS; i++) {
		if (user_read(t->mm, &vector, from + i * sizeof(vector), sizeof(vector)))
			break;
		line_text(line, i ? ", {iov_base=" : "{iov_base=");
		put_buffer(t, line, vector.base, vector.size < left ? vector.size : left);
		line_text(line, ", iov_len=");
		line_number(line, vector.size, 10);
		line_put(line, '}');
		left -= vector.size < left ? vector.size : left;
	}
	line_text(line, count > ELEMENTS ? ", ...]" : "]");
}

static void put_polls(struct task *t, struct line *line, u64 from, u64 count)
{
	u8 poll[8];

	if (!from || (count && user_read(t->mm, poll, from, sizeof(poll)))) {
		line_address(line, from);
		return;
	}
	line_put(line, '[');
	for (u64 i = 0; i < count && i < ELEMENTS; i++) {
		if (user_read(t->mm, poll, from + i * sizeof(poll), sizeof(poll)))
			break;
		line_text(line, i ? ", {fd=" : "{fd=");
		line_signed(line, (s32)load(poll, 4));
		line_text(line, ", events=");
		line_value(line, T_FLAGS, trace_poll_set, load(poll + 4, 2));
		line_put(line, '}');
	}
	line_text(line, count > ELEMENTS ? ", ...]" : "]");
}

static void put_epolls(struct task *t, struct line *line, u64 from, s64 count)
{
	u8 event[12];

	if (count < 0) {
		line_address(line, from);
		return;
	}
	line_put(line, '[');
	for (s64 i = 0; i < count && i < ELEMENTS; i++) {
		if (user_read(t->mm, event, from + (u64)i * sizeof(event), sizeof(event)))
			break;
		line_text(line, i ? ", " : "");
		put_epoll_event(line, event);
	}
	line_text(line, count > ELEMENTS ? ", ...]" : "]");
}

static void put_fd_set(struct task *t, struct line *line, u64 from, u64 count)
{
	u64 bytes = ((count < 1024 ? count : 1024) + 63) / 64 * 8;
	u64 words[16];
	bool any = false;

	if (!from || (s32)count < 0 || user_read(t->mm, words, from, bytes)) {
		line_address(line, from);
		return;
	}
	line_put(line, '[');
	for (u64 i = 0; i < bytes * 8 && i < count; i++) {
		if (!(words[i / 64] >> i % 64 & 1))
			continue;
		line_text(line, any ? " " : "");
		line_number(line, i, 10);
		any = true;
	}
	line_put(line, ']');
}

static void put_sockaddr(struct task *t, struct line *line, u64 from, u64 size)
{
	enum { UNIX = 1, INET = 2, LARGE = 112 };
	u8 address[LARGE];
	u16 family;

	if (!from || size < 2 || size > LARGE || user_read(t->mm, address, from, size)) {
		line_address(line, from);
		return;
	}
	family = (u16)load(address, 2);
	line_text(line, "{sa_family=");
	line_value(line, T_ONE, trace_family_set, family);
	if (family == UNIX && size > 2) {
		bool abstract = !address[2];
		u64 length = 2 + abstract;

		while (length < size && (abstract || address[length]))
			length++;
		line_text(line, abstract ? ", sun_path=@" : ", sun_path=");
		line_bytes(line, address + 2 + abstract, length - 2 - abstract, false);
	} else if (family == INET && size >= 8) {
		line_text(line, ", sin_port=htons(");
		line_number(line, (u64)address[2] << 8 | address[3], 10);
		line_text(line, "), sin_addr=inet_addr(\"");
		for (u32 i = 4; i < 8; i++) {
			line_text(line, i > 4 ? "." : "");
			line_number(line, address[i], 10);
		}
		line_text(line, "\")");
	} else if (family != UNIX) {
		line_text(line, ", sa_data=");
		line_bytes(line, address + 2, size - 2, false);
	}
	line_put(line, '}');
}

/* -- calls -- */

static bool is_result(u8 kind)
{
	return kind == T_OUT || kind == T_PUT || kind == T_OUT_PATH || kind == T_IOVEC_OUT || kind == T_EPOLLS ||
	       kind == T_PUT_SOCKADDR;
}

static void put_fcntl(struct line *line, u32 command, u64 value)
{
	enum { DUPFD = 0, GETFD = 1, SETFD = 2, SETFL = 4, DUPFD_CLOEXEC = 1030 };

	if (command == SETFD && value == 1)
		line_text(line, "FD_CLOEXEC");
	else if (command == SETFL)
		line_value(line, T_FLAGS, trace_open_set, value);
	else if (command == DUPFD || command == DUPFD_CLOEXEC)
		line_number(line, value, 10);
	else
		line_hex(line, value);
}

static void put_fcntl_result(struct line *line, u32 command, u64 result)
{
	enum { GETFD = 1, GETFL = 3 };

	if (command != GETFD && command != GETFL) {
		line_signed(line, (s64)result);
		return;
	}
	line_hex(line, result);
	if (command == GETFL || result) {
		line_text(line, " (flags ");
		put_fcntl(line, command + 1, result);
		line_put(line, ')');
	}
}

static bool has_no_argument(const struct trace *trace, u32 i)
{
	enum { GETFD = 1, GETFL = 3, GETOWN = 9, GETPIPE_SZ = 1032, GET_SEALS = 1034, CREATE = 0x40, TMPFILE = 0x400000 };
	u64 before = trace->args[i ? i - 1 : 0];

	if (trace->call->arguments[i].kind == T_CREATE_MODE)
		return !(before & (CREATE | TMPFILE));
	return trace->call->arguments[i].kind == T_FCNTL &&
	       (before == GETFD || before == GETFL || before == GETOWN || before == GETPIPE_SZ || before == GET_SEALS);
}

static void put_out(struct task *t, struct line *line, const struct trace *trace, u32 i, s64 result)
{
	const struct trace_argument *argument = &trace->call->arguments[i];
	u64 value = trace->args[i], other = trace->args[argument->detail < 6 ? argument->detail : 0];
	u32 length;

	if (result < 0) {
		line_address(line, value);
		return;
	}
	switch (argument->kind) {
	case T_OUT: put_buffer(t, line, value, (u64)result < other ? (u64)result : other); break;
	case T_OUT_PATH: put_string(t, line, value, other); break;
	case T_IOVEC_OUT: put_vectors(t, line, value, other, (u64)result); break;
	case T_EPOLLS: put_epolls(t, line, value, result); break;
	case T_PUT_SOCKADDR:
		if (user_read(t->mm, &length, other, sizeof(length)))
			length = 0;
		put_sockaddr(t, line, value, length);
		break;
	default: put_pointed(t, line, argument->detail, value);
	}
}

static void put_argument(struct task *t, struct line *line, const struct trace *trace, u32 i)
{
	const struct trace_argument *argument = &trace->call->arguments[i];
	u64 value = trace->args[i], other = trace->args[argument->detail < 6 ? argument->detail : 0];

	switch (argument->kind) {
	case T_GET: case T_CHANGE: put_pointed(t, line, argument->detail, value); break;
	case T_PATH: put_string(t, line, value, sizeof(line->text)); break;
	case T_STRINGS: put_strings(t, line, value, false); break;
	case T_ENVIRONMENT: put_strings(t, line, value, true); break;
	case T_IN: put_buffer(t, line, value, other); break;
	case T_IOVEC_IN: put_vectors(t, line, value, other, ~0ull); break;
	case T_POLLS: put_polls(t, line, value, other); break;
	case T_FD_SET: put_fd_set(t, line, value, other); break;
	case T_SOCKADDR: put_sockaddr(t, line, value, other & 0xffffffff); break;
	case T_FCNTL: put_fcntl(line, (u32)trace->args[1], value); break;
	default: line_value(line, argument->kind, argument->detail, value);
	}
}

/* All arguments up to the first that is known behind the call only; or the rest. */
static void put_arguments(struct task *t, struct line *line, struct trace *trace, bool behind, s64 result)
{
	for (; trace->next < trace->call->count; trace->next++) {
		u32 i = trace->next;

		if (is_result(trace->call->arguments[i].kind) && !behind)
			return;
		if (has_no_argument(trace, i))
			continue;
		line_text(line, i ? ", " : "");
		if (is_result(trace->call->arguments[i].kind))
			put_out(t, line, trace, i, result);
		else
			put_argument(t, line, trace, i);
	}
}

/* Whose call it is, as soon as there is more than one task. */
static void put_task(struct line *line, s32 tid)
{
	static bool many;

	many = many || tid != PID;
	if (!many)
		return;
	line_text(line, "[pid ");
	for (s32 width = 10000; width > tid && width > 1; width /= 10)
		line_put(line, ' ');
	line_signed(line, tid);
	line_text(line, "] ");
}

void strace_enter(struct task *t, struct trace *trace, const u64 *args)
{
	static const struct syscall unknown = {
		.name = "syscall_", .count = 6,
		.arguments = { { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 } },
	};
	bool known = t->number < SYSCALLS && syscalls[t->number].name;
	struct line *line = &trace->line;

	trace->call = known ? &syscalls[t->number] : &unknown;
	trace->args = args;
	trace->next = line->size = 0;
	put_task(line, t->tid);
	line_text(line, trace->call->name);
	if (!known)
		line_hex(line, t->number);
	line_put(line, '(');
	put_arguments(t, line, trace, false, 0);
	if (trace->call->result == T_NOTHING) {
		line_text(line, ") = ?");
		log_line(line);
	}
}

/* An error, or what the call returns to the core after a signal: the program sees EINTR, or the call is made again. */
static void put_error(struct line *line, u64 error)
{
	static const struct trace_errno restarts[] = {
		{ "ERESTARTSYS", "To be restarted if SA_RESTART is set" },
		{ "ERESTARTNOINTR", "To be restarted" },
		{ "ERESTARTNOHAND", "To be restarted if no handler" },
		{ NULL, NULL },
		{ "ERESTART_RESTARTBLOCK", "Interrupted by signal" },
	};
	const struct trace_errno *found = NULL;

	if (error < trace_errno_count)
		found = &trace_errnos[error];
	else if (error >= ERESTARTSYS && error - ERESTARTSYS < ARRAY_SIZE(restarts))
		found = &restarts[error - ERESTARTSYS];
	line_text(line, error < ERESTARTSYS ? "-1 " : "? ");
	line_text(line, found && found->name ? found->name : "E?");
	line_text(line, " (");
	line_text(line, found && found->name ? found->text : "?");
	line_put(line, ')');
}

void strace_leave(struct task *t, struct trace *trace, s64 result)
{
	struct line *line = &trace->line;
	u64 error = -(u64)result;

	if (trace->call->result == T_NOTHING)
		return;
	put_arguments(t, line, trace, true, result);
	line_text(line, ") = ");
	if (t->process->ending) {
		line_put(line, '?');
	} else if (error && error < 4096) {
		put_error(line, error);
	} else if (trace->call->result == T_FCNTL) {
		put_fcntl_result(line, (u32)trace->args[1], (u64)result);
	} else {
		line_value(line, trace->call->result, 0, (u64)result);
	}
	log_line(line);
}

/* Which system calls the program made that are not there, and how often. */
void strace_unknown(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(core.unknown); i++) {
		struct line line = { .size = 0 };
		bool last = i + 1 == ARRAY_SIZE(core.unknown);

		if (!core.unknown[i])
			continue;
		line_text(&line, "not there: ");
		line_text(&line, !last && syscalls[i].name ? syscalls[i].name : "system call");
		line_put(&line, ' ');
		line_number(&line, i, 10);
		line_text(&line, last ? " or above, " : ", ");
		line_number(&line, core.unknown[i], 10);
		line_text(&line, " times");
		log_line(&line);
	}
}
