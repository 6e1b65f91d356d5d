/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals: a line discipline (Linux's N_TTY), and the driver behind it: the master of a pseudo terminal, or the
 * platform's console.
 *
 * Input waits in `input` until the line discipline has room to edit and echo it. A task that holds a reference may
 * use a terminal after a sleep, and must check again whether it was hung up.
 */
#ifndef SENTRY_TTY_H
#define SENTRY_TTY_H

#include "../core.h"
#include "../vfs/caller.h"

enum { BUFFER = 4096, BUFFER_MASK = BUFFER - 1, CONSOLE_INDEX = 0, PTS_MAJOR = 136, PTYS_MOST = 1024 };

/* -- the modes of a terminal, as TCGETS2 has them -- */

enum { VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, VSWTC, VSTART, VSTOP, VSUSP, VEOL, VREPRINT, VDISCARD, VWERASE,
       VLNEXT, VEOL2, CHARACTERS = 19 };
enum { /* of input */
	PARMRK = 010, ISTRIP = 040, INLCR = 0100, IGNCR = 0200, ICRNL = 0400, IUCLC = 01000, IXON = 02000, IXANY = 04000,
	IUTF8 = 040000,
};
enum { OPOST = 01, OLCUC = 02, ONLCR = 04, OCRNL = 010, ONOCR = 020, ONLRET = 040, XTABS = 014000 };
enum { CSIZE = 060, CS8 = 060, CREAD = 0200, PARENB = 0400, CLOCAL = 04000, BOTHER = 010000, CBAUD = 010017 };
enum {
	ISIG = 01, ICANON = 02, ECHO = 010, ECHOE = 020, ECHOK = 040, ECHONL = 0100, NOFLSH = 0200, TOSTOP = 0400,
	ECHOCTL = 01000, ECHOPRT = 02000, ECHOKE = 04000, IEXTEN = 0100000, EXTPROC = 0200000,
};

struct modes {
	u32 input, output, control, local;
	u8 discipline, characters[CHARACTERS];
	u32 input_speed, output_speed;
};

_Static_assert(sizeof(struct modes) == 44, "as TCGETS2 has it");

enum { TCGETS_SIZE = __builtin_offsetof(struct modes, input_speed) };

/* -- queues of bytes -- */

struct ring {
	u8 *data;
	u32 size, first, used;
};

u64 ring_put(struct ring *ring, const void *data, u64 size); /* how many fit */
u64 ring_take(struct ring *ring, void *data, u64 size);

/* -- terminals -- */

struct tty;

/* What a master in packet mode reports. */
enum {
	PACKET_FLUSH_READ = 1, PACKET_FLUSH_WRITE = 2, PACKET_STOP = 4, PACKET_START = 8,
	PACKET_NO_STOP = 16, PACKET_DO_STOP = 32, PACKET_IOCTL = 64,
};

/* The driver behind a terminal. None of its functions sleeps. */
struct tty_driver {
	u64 (*room)(const struct tty *tty);
	void (*write)(struct tty *tty, const void *data, u64 size); /* not more than there is room for */
	void (*flush)(struct tty *tty);				     /* discard output that nobody has read yet */
	void (*report)(struct tty *tty, u32 what, u32 without);	     /* PACKET_*: set, and reset */
	void (*taken)(struct tty *tty);				     /* some input left: there is room for more */
	void (*fetch)(struct tty *tty);				     /* receive waiting input, as far as there is room */
	void (*last_closed)(struct tty *tty);
	bool (*may_open)(struct tty *tty); /* otherwise -EIO */
	void (*free)(struct tty *tty);
};

/* Input that is edited and read. Indices grow without bound; their place is the value modulo the size. */
struct line_buffer {
	u8 *bytes;
	u32 tail, head;	    /* the next byte to read; the end of the input */
	u32 ready;	    /* the end of what a raw read gets */
	u32 line_head;	    /* the end of the last whole line */
	u64 ends[BUFFER / 64]; /* where lines end: a zero there is an end of file */
	bool canonical, literal_next, erasing;
};

struct echo {
	u8 *bytes;
	u32 tail, head;
	u32 column, line_column; /* of the cursor; where the line that is edited begins */
};

/* A lock; signals interrupt the wait for it. */
struct turn {
	bool taken;
	struct wait_queue queue;
};

struct tty {
	u32 references; /* of open files, processes and the driver */
	const struct tty_driver *driver;
	u32 index;
	struct list files;
	u32 open_count;
	struct modes modes, locked;
	struct winsize size;
	u32 pids;		      /* the namespace of these numbers */
	s32 session, group;	      /* whose terminal it is, and the foreground; 0: none */
	bool stopped, stopped_by_call; /* output, by a character or a call; by a call */
	bool exclusive;		      /* TIOCEXCL */
	bool other_closed;	      /* the master is closed, or the console has ended */
	struct ring input;
	struct line_buffer line;
	struct echo echo;
	struct turn reading, writing;
	struct wait_queue readable, writable;
};

/* Of an open file: file->data. */
struct tty_file {
	struct list files;
	struct tty *tty;
	bool hung;    /* a hangup has disconnected it */
	bool console; /* opened as /dev/console: no job control */
};

/* -- tty.c: the life of terminals, and their files -- */

bool tty_start(struct tty *tty, const struct tty_driver *driver, u32 index); /* *tty is zeros; false: no memory */
void tty_get(struct tty *tty);
void tty_put(struct tty *tty);
void tty_end(struct tty *tty); /* frees what tty_start() made */
int tty_open(struct file *file, struct tty *tty, bool console); /* may make it the caller's, unless O_NOCTTY */
void tty_hangup(struct tty *tty); /* disconnects its files and sends SIGHUP to its session's leader */
s64 turn_take(struct turn *turn, bool wait);
void turn_end(struct turn *turn);
/* Writes at most a page: how much of it; an error only if nothing was written. */
typedef s64 page_writer(struct file *file, const u8 *data, u64 size);
s64 turn_write(struct turn *turn, struct file *file, struct io *from, page_writer *write); /* page by page, in a turn */

/* -- input.c, read.c, output.c: the line discipline -- */

u64 tty_receive(struct tty *tty, const void *data, u64 size); /* how much there was room for */
void tty_process(struct tty *tty);			      /* input, as far as there is room */
bool tty_has_input(const struct tty *tty, bool poll);
u32 tty_input_size(const struct tty *tty); /* FIONREAD */
s64 tty_read(struct tty *tty, struct tty_file *file, u8 *to, u64 size, bool wait);
void tty_flush_input(struct tty *tty);
void line_forget(struct tty *tty);
void line_mark_end(struct line_buffer *line, u32 index); /* the byte there ends a line */
void line_modes_changed(struct tty *tty, const struct modes *old);

u64 tty_room(const struct tty *tty);
u64 tty_output(struct tty *tty, const u8 *data, u64 size); /* how much was written */
void tty_stop(struct tty *tty);
void tty_restart(struct tty *tty);
void echo_byte(struct tty *tty, u8 c);	/* control characters as ^X, with ECHOCTL */
void echo_raw(struct tty *tty, u8 c);
void echo_back(struct tty *tty);	/* the cursor moves back one column */
void echo_tab_erased(struct tty *tty, u32 columns, bool after_tab);
void echo_mark_line(struct tty *tty);	/* the line that is edited begins here */
void echo_flush(struct tty *tty);	/* write it, as far as there is room */
void echo_forget(struct tty *tty);

static inline bool is_control(u8 c)
{
	return c < 32 || c == 127;
}

/* Not the first byte of a character. */
static inline bool is_continuation(const struct tty *tty, u8 c)
{
	return tty->modes.input & IUTF8 && (c & 0xc0) == 0x80;
}

static inline bool is_canonical(const struct tty *tty)
{
	return tty->line.canonical && !(tty->modes.local & EXTPROC);
}

static inline void tty_report(struct tty *tty, u32 what, u32 without)
{
	if (tty->driver->report)
		tty->driver->report(tty, what, without);
}

/* -- modes.c, ioctl.c -- */

enum { TCXONC = 0x540a, TCFLSH, TIOCSPGRP = 0x5410, FIONREAD = 0x541b, TIOCGPTPEER = 0x5441 }; /* of several files */
enum { TCOOFF, TCOON, TCIOFF, TCION }; /* for TCXONC */
enum { TCIFLUSH, TCOFLUSH, TCIOFLUSH }; /* for TCFLSH */

static inline s64 put_number(u64 to, s32 value)
{
	return user_write(core.current->mm, to, &value, sizeof(value));
}

extern const struct modes usual_modes;
s64 modes_ioctl(struct tty *tty, bool master, u32 command, u64 argument); /* 1: it is another command */
s64 tty_ioctl(struct file *file, u32 command, u64 argument);
void tty_resize(struct tty *tty, const struct winsize *size);
void tty_flush_output(struct tty *tty);
/* Commands of terminals and masters. master: the caller has the master's descriptor. */
s64 shared_ioctl(struct tty *tty, bool master, struct file *file, u32 command, u64 argument);

/* -- session.c: terminals of processes -- */

struct tty *tty_of_caller(void); /* borrowed; NULL */
void tty_acquire(struct tty *tty, struct file *file); /* at open, if the caller may have it and has none */
s64 tty_check(struct tty *tty, int signal); /* SIGTTIN, SIGTTOU: 0, or the error for a background process */
void tty_signal_group(struct tty *tty, int signal);
void session_hangup(struct tty *tty);
s64 session_ioctl(struct tty *tty, bool master, struct file *file, u32 command, u64 argument); /* 1: another command */

/* -- pty.c, devpts.c -- */

void ptys_init(void);
int ptmx_open(struct file *file);
static inline u64 pts_device(u32 index) /* as programs see it */
{
	return (u64)PTS_MAJOR << 8 | (index & 0xff) | (u64)(index & ~0xffu) << 12;
}

struct tty *pty_unlock(struct file *master); /* its terminal can be opened from now on: borrowed */
struct tty *pty_find(u32 index); /* borrowed; NULL */
void devpts_init(void);
struct super *devpts_super(void); /* a reference; NULL: no memory */
struct inode *devpts_add(u32 index); /* NULL: no memory */
void devpts_remove(struct inode *inode);
int devpts_path(u32 index, struct path *path);
struct inode *pty_inode(u32 index); /* borrowed; NULL */
bool pty_is_own(u32 index); /* the caller's container has opened the master; it is there */
void pty_give(struct file *master, const void *container);

/* -- console.c -- */

void ttys_init(void);
bool console_start_terminal(void);
void console_adopt(struct process *p);
bool console_is_terminal(u32 stream);
struct tty *console_tty(void); /* borrowed; NULL: the console is no terminal */
struct file *console_tty_open(void);
struct inode *console_inode(void);

#endif
