/* SPDX-License-Identifier: Apache-2.0 */
/* What system calls look like, from pyvmm_sentry/syscalls.py and abi.py, and how a line about one is put together. */
#ifndef SENTRY_STRACE_H
#define SENTRY_STRACE_H

#include "types.h"

/* Kinds of arguments, fields and types; pyvmm_sentry/syscalls.py explains them. */
enum trace_kind {
	T_INT, T_UINT, T_ID, T_FD, T_DIRFD, T_SIGNAL, T_MODE, T_CREATE_MODE, T_FILE_MODE, T_FLAGS, T_ONE, T_HEX32, T_FUTEX,
	T_WAIT_STATUS, T_USHORT, T_USHORT_MODE, T_LONG, T_ULONG, T_SIZE, T_HEX, T_ADDR, T_LIMIT, T_HANDLER, T_SIGSET,
	T_FLAGS64, T_MODE64, T_DEVICE, T_FILE_SIZE, T_RESTORER, T_CHARS, T_FD_PAIR, T_STRUCT, T_PAIR, T_MSGHDR, T_EPOLL_EVENT, T_GET, T_PUT, T_CHANGE,
	T_PATH, T_OUT_PATH, T_STRINGS, T_ENVIRONMENT, T_IN, T_OUT, T_IOVEC_IN, T_IOVEC_OUT, T_POLLS, T_EPOLLS, T_FD_SET,
	T_SOCKADDR, T_PUT_SOCKADDR, T_FCNTL, T_NOTHING,
};

/* The detail of a path that is the call's own: whether the call follows a symbolic link there. 0: of any other text. */
enum { PATH_FOLLOW = 1, PATH_LINK = 2 };

struct trace_name {
	const char *name;
	u64 value;
};

struct trace_set {
	const struct trace_name *names;
	u32 count;
	u64 mask; /* of the bits that are one number */
	const char *zero;
};

struct trace_field {
	const char *name;
	u8 offset, kind, detail;
};

struct trace_type {
	u8 kind, detail, count;
	bool more; /* fields, which are not printed */
	u16 size;
	const struct trace_field *fields;
};

struct trace_errno {
	const char *name, *text;
};

extern const struct trace_set trace_sets[];
extern const struct trace_type trace_types[];
extern const struct trace_errno trace_errnos[];
extern const u32 trace_errno_count;
/* Sets that the printer itself refers to. */
extern const u8 trace_signal_set, trace_type_set, trace_futex_set, trace_poll_set, trace_epoll_set, trace_family_set,
	trace_open_set;

/* A line that grows up to its end, and no more. */
struct line {
	char text[1024];
	u32 size;
};

void line_put(struct line *line, char c);
void line_text(struct line *line, const char *text);
void line_number(struct line *line, u64 value, u32 base);
void line_signed(struct line *line, s64 value);
void line_hex(struct line *line, u64 value);	/* 0x..., or 0 */
void line_address(struct line *line, u64 value); /* 0x..., or NULL */
void line_octal(struct line *line, u64 value, u32 digits);
void line_bytes(struct line *line, const u8 *bytes, u64 size, bool more); /* quoted */
void line_value(struct line *line, u8 kind, u8 detail, u64 value);

/* A system call, while a task makes it. */
struct trace {
	struct line line;
	const struct syscall *call;
	const u64 *args;
	u32 next; /* argument to print */
};

void strace_enter(struct task *t, struct trace *trace, const u64 *args);
void strace_leave(struct task *t, struct trace *trace, s64 result);
void strace_unknown(void);

#endif
