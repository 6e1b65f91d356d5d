/* SPDX-License-Identifier: Apache-2.0 */
/* What the core needs from a platform, which runs the program's code and shows it the core's pages. */
#ifndef SENTRY_PLATFORM_H
#define SENTRY_PLATFORM_H

#include "types.h"

/* What a program has in its registers, while it does not run. */
struct regs {
	u64 r15, r14, r13, r12, rbp, rbx, r11, rax, rcx;
	u64 rdi, rsi, rdx, r10, r8, r9; /* the arguments of a system call, in this order */
	u64 rip, flags, rsp, fs_base, gs_base;
};

/* How a program has used an address. ACCESS_ANY: the platform cannot find out. */
enum access { ACCESS_ANY, ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

/* Why a program has stopped. ANSWERED: after a system call that core_call() has answered. */
struct event {
	enum { EVENT_SYSCALL, EVENT_ANSWERED, EVENT_FAULT, EVENT_SIGNAL, EVENT_PREEMPTED } kind;
	bool foreign; /* a system call of another interface, such as int 0x80: its number means something else */
	u64 address;  /* of a fault */
	enum access access;
	bool present; /* of a fault: the page is there, but may not be used so */
	int signal;   /* what Linux sends for the exception; SIGKILL: the program is gone */
	int code;     /* of siginfo: why */
	u64 hits;     /* of SIGTRAP, if there are breakpoints: the bits of DR6 */
};

enum { BREAKPOINTS = 4 };

/* Breakpoints of the CPU, as DR0 to DR3 and DR7 have them. */
struct breakpoints {
	u64 address[BREAKPOINTS], control;
};

struct clock_page;
enum clock { CLOCK_IS_REALTIME, CLOCK_IS_MONOTONIC };
enum point { POINT_CALL, POINT_LISTENS }; /* a write to /dev/pyvmm; a TCP socket listens: its port */

struct platform_ops {
	/*
	 * An address space, whose page tables are at this offset in RAM; NULL: there are too many. from: another one, or
	 * NULL for the first; copy: what a program sees in that one it sees here, too.
	 */
	void *(*space_new)(u64 tables, void *from, bool copy);
	void (*space_free)(void *space);
	/*
	 * Run a program from these registers up to the next event. fpu is fpu_size bytes as XSAVE has them, loaded if
	 * others were. After a system call, only its number, its arguments and RIP are up to date, until flush. Without
	 * flush, only RAX and RIP may change.
	 */
	void (*run)(void *space, struct regs *regs, void *fpu, bool preempt, struct event *event);
	void (*flush)(void *space, struct regs *regs, void *fpu);
	/*
	 * Show it pages of RAM, in place of what it sees there; 0 or -errno. All are multiples of a page. The page tables
	 * have been changed before, here and in unmap.
	 */
	int (*map)(void *space, u64 address, u64 ram_offset, u64 size, u32 prot);
	/* Show it nothing there. Never fails: a platform that cannot do so ends the sandbox. */
	void (*unmap)(void *space, u64 address, u64 size);
	/*
	 * Wait until the monotonic clock shows this time (0: do not wait; ~0: for ever) or something happens; whether the
	 * console may have input. May return too early. The CPU stays in the core unless sched_waits().
	 */
	bool (*wait)(u64 deadline);
	s64 (*console_read)(void *data, u64 size);
	s64 (*console_write)(int stream, const void *data, u64 size); /* stream 0: the terminal that is the input */
	bool (*console_size)(int stream, u16 *rows, u16 *columns); /* whether it is a terminal */
	u64 (*nanoseconds)(enum clock clock);
	void (*random)(void *data, u64 size);
	void (*kick)(u32 queue); /* of a device that the platform has set up; NULL: there is none */
	void (*fatal)(const char *why); /* the core is broken: does not return */
	void (*log)(const char *line, u64 size); /* for the sandbox's user, not for the program */
	/* The program has reached a point that the host may wait for: it must not sleep. NULL: nobody does. */
	void (*point)(enum point point, u32 value);
	bool (*console_resized)(void); /* the terminal may have another size than before; NULL: never */
	/* Of a platform with several CPUs; NULL where there is one. */
	void (*leave_cpu)(void *fpu); /* a task may continue on another CPU; NULL: that does not matter */
	u32 (*cpu)(void); /* the number of the CPU that executes this */
	void (*cpu_start)(u32 cpu, u64 rsp); /* it continues in the core with this stack, as after a change of stacks */
	/* Make run or wait of another CPU return; stop: its program has stopped when this returns. */
	void (*interrupt)(u32 cpu, bool stop);
	/* Return pages to the host, which are zeros when they are used again; NULL: a balloon does that, or nobody. */
	bool (*release)(u64 ram_offset, u64 size);
	/* The host's devices or its kernel may read and write these pages of RAM from now on; NULL: they may do so anyway. */
	void (*expose)(u64 ram_offset, u64 size);
	/* Set breakpoints for the program that this CPU runs next; NULL: none.  NULL: the platform has no breakpoints. */
	void (*set_breakpoints)(const struct breakpoints *wanted);
	/* Keep a page of RAM up to date, which is at this offset, and read clocks by it. NULL: programs have no such page. */
	void (*clock_page)(struct clock_page *page, u64 offset);
	/*
	 * Watch core_is_answered() for moments: whether it holds. The answer raises no interrupt if this comes before it.
	 * NULL, or false at once: to sleep is better.
	 */
	bool (*watch)(void);
	/*
	 * CPU time of a task, of so many nanoseconds by the clock, in which it was in the core and then in the program that
	 * this CPU runs or has run last: without that in which the host ran something else. ended: what follows is another
	 * interval. NULL: all of it.
	 */
	u64 (*ran)(u32 cpu, u64 nanoseconds, bool ended);
	bool walks; /* its CPU walks the core's page tables: a page that appears in them needs no map */
};

/*
 * One CPU at a time is in the core: it leaves when it runs a program, and when it waits without a task.  Between these two
 * no other CPU changes anything but what programs can write to.
 */

/* The start of a sandbox. Everything here is trusted, but for the content of the program. */
struct core_config {
	const struct platform_ops *ops;
	u8 *ram;
	u64 ram_size, ram_reserved; /* the core leaves so much at the start alone */
	bool ram_dirty;		    /* it may contain other bytes than zeros */
	bool ram_touched;	    /* touch what is used first, before the first call of the host */
	const u8 *program; /* NULL: it is in the root */
	u64 program_size;
	const u8 *root; /* a cpio archive with the files of the root; NULL: there are none */
	u64 root_size;
	const char *path, *real_path; /* by which it was named; without links, from the root */
	const char *directory; /* in which it starts; NULL: the root */
	const char *const *argv, *const *envp;
	u32 user, group;
	u32 most_tasks; /* at once, zombies included; 0: any number */
	u32 cpus;	/* 0: one */
	const u64 *devices; /* registers of virtio-mmio devices, by offset from ram */
	u32 device_count;
	u64 share_rings, net_rings, vsock_rings; /* of devices that the platform has set up: their queues, by offset; or 0 */
	u32 fpu_size;	  /* of the state of the FPU, as XSAVE has it */
	u64 fpu_features; /* XCR0 */
	bool strace;
	u32 terminal; /* bits of the console's streams that are one terminal, in raw mode: the core edits and echoes; 0: none */
	u8 terminal_modes[36]; /* its modes before, as TCGETS has them; zeros: the usual ones */
	bool scratch; /* what changes in the root stays in memory */
	bool hooks; /* the program starts when the host has connected to decide its calls (hooks/) */
	bool control; /* there is no first program: the host starts containers, by calls */
};

/*
 * Answer a system call of the task that a CPU runs, for a platform that has stayed in run(). RETURN: run() has to return
 * EVENT_ANSWERED, perhaps on another CPU. CALL: EVENT_SYSCALL, as the call is not answered. Otherwise the program goes on,
 * with preempt as of run() for a SLICE.
 */
enum next { NEXT_RETURN, NEXT_CALL, NEXT_PROGRAM, NEXT_SLICE };
enum next core_call(u32 cpu);

struct core_exit {
	int status;
	int signal; /* 0 if the program exited */
};

/* Save what a function of C keeps for its caller, change stacks, and go on where that stack was left. */
void context_switch(u64 *save_rsp, u64 load_rsp);
bool sched_listens(void); /* a task waits for a time, a device or the console */
bool sched_waits(void);	  /* the CPU in the core waits without a task: another one may enter meanwhile */

bool core_rests(void);	  /* the host has answered all requests of files */
bool core_is_answered(void); /* it has answered one, which the core has not seen yet */
/*
 * Make core_run() return, in the middle of run or wait.  These go on in core_continue(), with all that the core has in
 * RAM and in its variables: also in another process, which has copies of both.
 */
void core_leave(void);
bool core_has_left(void);
bool page_is_shared(u64 ram_offset); /* whether a page has several users: mappings, and files */
void core_hide(bool (*which)(u64 ram_offset)); /* programs see these pages when they use them again, not before */
void core_moved(void); /* before core_continue(): the host's ends of its sockets are gone */
struct core_exit core_continue(void);

/* Load the program. NULL, or an error message. */
const char *core_start(const struct core_config *config);
/* Run it until it ends. */
struct core_exit core_run(void);

#endif
