// SPDX-License-Identifier: Apache-2.0
/* Traces children in each way, and prints what each call returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ptrace.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "report.h"

#define TRACE(request, pid, at, data) TRY(ptrace, request, pid, at, data)
#define WORD(field) offsetof(struct user_regs_struct, field)

enum { PRSTATUS = 1, PRFPREG = 2, XSTATE = 0x202, SHOWN = 0x7f8fffff };

static volatile long value = 0x1122334455667788;
static volatile int handled;
static const char text[16] = "a constant text";
static pid_t child;

static void on_signal(int signal)
{
	handled += signal;
}

/* What wait says about the child, with its numbers but not with its pid. */
static void show_wait(int line, pid_t pid, int options)
{
	int status = -1;
	pid_t got = waitpid(pid, &status, options | __WALL);

	if (got < 0)
		printf("%d wait: %s\n", line, strerrorname_np(errno));
	else
		printf("%d wait: %s %x\n", line, !got ? "nobody" : got == child ? "the child" : "another", status & SHOWN);
}

#define WAIT() show_wait(__LINE__, child, 0)

static void show_registers(int line)
{
	struct user_regs_struct regs;

	if (syscall(SYS_ptrace, PTRACE_GETREGS, child, 0, &regs))
		printf("%d registers: %s\n", line, strerrorname_np(errno));
	else
		printf("%d registers: number %lld, result %lld, %llx %llx %llx\n", line, (long long)regs.orig_rax, (long long)regs.rax,
		       regs.cs, regs.ss, regs.eflags & 0x100);
}

static void show_info(int line)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	if (syscall(SYS_ptrace, PTRACE_GETSIGINFO, child, 0, &info))
		printf("%d siginfo: %s\n", line, strerrorname_np(errno));
	else
		printf("%d siginfo: %d %d %x from %s\n", line, info.si_signo, info.si_errno, info.si_code,
		       !info.si_pid ? "nobody" : info.si_pid == child ? "the child" : info.si_pid == getpid() ? "me" : "another");
}

static void show_call(int line)
{
	struct ptrace_syscall_info info;
	long size;

	memset(&info, 0x55, sizeof(info));
	size = syscall(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info);
	printf("%d call: size %ld, kind %d, machine %x", line, size, info.op, info.arch);
	if (info.op == 1)
		printf(", number %lld", (long long)info.entry.nr);
	else if (info.op == 2)
		printf(", result %lld, error %d", (long long)info.exit.rval, info.exit.is_error);
	printf("\n");
}

static unsigned long message(void)
{
	unsigned long got = ~0ul;

	syscall(SYS_ptrace, PTRACE_GETEVENTMSG, child, 0, &got);
	return got;
}

static char state_of(pid_t pid, pid_t *tracer)
{
	char name[40], line[200], state = '?';
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	file = fopen(name, "r");
	*tracer = -1;
	while (file && fgets(line, sizeof(line), file)) {
		sscanf(line, "State: %c", &state);
		sscanf(line, "TracerPid: %d", tracer);
	}
	if (file)
		fclose(file);
	return state;
}

static void show_state(int line)
{
	pid_t tracer;
	char state = state_of(child, &tracer);

	printf("%d state %c, traced by %s\n", line, state, !tracer ? "nobody" : tracer == getpid() ? "me" : "another");
}

/* A child that is traced from its start, and has stopped by itself. */
static bool begin(int line)
{
	fflush(stdout);
	child = fork();
	if (!child) {
		syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		return true;
	}
	show_wait(line, child, 0);
	return false;
}

#define TRACED_CHILD() (printf("%d -- traced child\n", __LINE__), begin(__LINE__))

/* A child that nobody traces; it runs until it is killed. */
static void begin_sleeper(void)
{
	fflush(stdout);
	child = fork();
	if (!child)
		for (;;)
			pause();
	wait_until_asleep(child);
}

static void end(void)
{
	kill(child, SIGKILL);
	show_wait(0, child, 0);
}

static void test_errors(void)
{
	pid_t parent = getpid();

	begin_sleeper();
	TRACE(PTRACE_PEEKDATA, child, &value, &value);
	TRACE(PTRACE_CONT, child, 0, 0);
	TRACE(PTRACE_DETACH, child, 0, 0);
	TRACE(PTRACE_KILL, child, 0, 0);
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	TRACE(999, child, 0, 0);
	TRACE(PTRACE_ATTACH, parent, 0, 0);
	TRACE(PTRACE_SEIZE, parent, 0, 0);
	TRACE(PTRACE_ATTACH, 0, 0, 0);
	TRACE(PTRACE_ATTACH, -1, 0, 0);
	TRACE(PTRACE_ATTACH, 4000000, 0, 0);
	TRACE(PTRACE_CONT, 4000000, 0, 0);
	TRACE(PTRACE_SEIZE, child, 1, 0);
	TRACE(PTRACE_SEIZE, child, 0, 0x40000000);
	TRACE(PTRACE_SEIZE, 4000000, 1, 0);
	IN_CHILD {
		become(NOBODY);
		TRACE(PTRACE_ATTACH, child, 0, 0);
		TRACE(PTRACE_SEIZE, child, 0, 0);
	}
	show_state(__LINE__);
	kill(child, SIGKILL);
	siginfo_t info;
	waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
	TRACE(PTRACE_ATTACH, child, 0, 0);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_ATTACH, child, 0, 0);
}

static void test_memory(void)
{
	long word = 0;
	char *only_read, *none, *shared;

	only_read = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (TRACED_CHILD())
		_exit(value == 5 && !memcmp(text, "changed!", 8) && !strcmp(only_read, "changed!") ? 7 : 8);
	show_info(__LINE__);
	show_state(__LINE__);
	TRACE(PTRACE_PEEKDATA, child, &value, &word);
	printf("%lx\n", word);
	TRACE(PTRACE_PEEKTEXT, child, (char *)&value + 3, &word);
	TRACE(PTRACE_PEEKDATA, child, 0, &word);
	TRACE(PTRACE_PEEKDATA, child, BAD, &word);
	TRACE(PTRACE_PEEKDATA, child, -8L, &word);
	TRACE(PTRACE_PEEKDATA, child, &value, BAD);
	TRACE(PTRACE_PEEKDATA, child, BAD, BAD);
	TRACE(PTRACE_POKEDATA, child, &value, 5);
	TRACE(PTRACE_POKEDATA, child, BAD, 5);
	memcpy(&word, "changed!", 8);
	TRACE(PTRACE_POKETEXT, child, text, word);
	TRACE(PTRACE_POKEDATA, child, only_read, word);
	TRACE(PTRACE_POKEDATA, child, none, word);
	TRACE(PTRACE_PEEKDATA, child, none, &word);
	printf("%.8s\n", (char *)&word);
	TRACE(PTRACE_POKEDATA, child, shared, word);
	TRACE(PTRACE_PEEKDATA, child, shared, &word);
	printf("mine: %lx %s %d\n", value, text, *only_read);
	TRACE(PTRACE_CONT, child, 0, 65);
	TRACE(PTRACE_CONT, child, 0, -1L);
	TRACE(999, child, 0, 0);
	TRACE(PTRACE_LISTEN, child, 0, 0);
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	TRACE(PTRACE_ATTACH, child, 0, 0);
	TRACE(PTRACE_SEIZE, child, 0, 0);
	TRACE(PTRACE_DETACH, child, 0, 65);
	TRACE(PTRACE_SETOPTIONS, child, 0, 0x40000000);
	TRACE(PTRACE_SETOPTIONS, child, 0, 0x7f);
	TRACE(PTRACE_SETOPTIONS, child, 0, 0);
	TRACE(PTRACE_GETEVENTMSG, child, 0, BAD);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, 0);
}

static void test_other_ways_to_memory(void)
{
	char name[40], buffer[16] = "";
	struct iovec mine = { buffer, 8 }, other = { (void *)&value, 8 };
	int fd;

	value = 0x4142434445464748;
	if (TRACED_CHILD())
		_exit(memcmp(text, "over it!", 8) ? 8 : 7);
	TRY(process_vm_readv, child, &mine, 1, &other, 1, 0);
	printf("%s\n", buffer);
	snprintf(name, sizeof(name), "/proc/%d/mem", child);
	fd = CALL(open(name, O_RDWR)) < 0 ? -1 : 3;
	TRY(pread64, fd, buffer, 8, &value);
	TRY(pread64, fd, buffer, 8, 0);
	TRY(pwrite64, fd, "over it!", 8, text);
	TRY(pwrite64, fd, "over it!", 8, 0);
	TRY(lseek, fd, 0, SEEK_END);
	CALL(lseek(fd, (off_t)text, SEEK_SET) == (off_t)text);
	TRY(read, fd, buffer, 8);
	printf("%s\n", buffer);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRY(pread64, fd, buffer, 8, &value);
	CALL(close(fd));
}

static void test_registers(void)
{
	struct user_regs_struct regs, small;
	struct user_fpregs_struct floats;
	static char state[20000];
	struct iovec part = { &small, 24 }, all = { state, sizeof(state) }, odd = { &small, 20 }, wild = { BAD, 64 };
	unsigned long word = 1;

	if (TRACED_CHILD()) {
		register long r12 asm("r12") = 5;
		double d = 1;

		asm volatile("int3; movq %%xmm3, %0" : "=r"(word), "+r"(r12) : : "xmm3");
		memcpy(&d, &word, sizeof(d));
		_exit((int)r12 + (int)d);
	}
	TRACE(PTRACE_PEEKUSR, child, WORD(cs), &word);
	printf("%lx\n", word);
	TRACE(PTRACE_PEEKUSR, child, WORD(cs) + 1, &word);
	TRACE(PTRACE_PEEKUSR, child, sizeof(struct user), &word);
	TRACE(PTRACE_PEEKUSR, child, 10000, &word);
	TRACE(PTRACE_PEEKUSR, child, offsetof(struct user, u_debugreg), &word);
	TRACE(PTRACE_PEEKUSR, child, offsetof(struct user, u_debugreg) + 56, &word);
	TRACE(PTRACE_PEEKUSR, child, sizeof(regs), &word);
	TRACE(PTRACE_POKEUSR, child, sizeof(regs), 0);
	TRACE(PTRACE_POKEUSR, child, 10000, 0);
	TRACE(PTRACE_POKEUSR, child, offsetof(struct user, u_debugreg) + 56, 0);
	TRACE(PTRACE_POKEUSR, child, WORD(cs), 0x10);
	TRACE(PTRACE_POKEUSR, child, WORD(fs_base), -1L);
	TRACE(PTRACE_POKEUSR, child, WORD(gs_base), 0x1000);
	TRACE(PTRACE_POKEUSR, child, WORD(gs_base), 0);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	show_info(__LINE__);
	show_registers(__LINE__);
	TRACE(PTRACE_GETREGS, child, 0, &regs);
	printf("r12 %lld\n", regs.r12);
	TRACE(PTRACE_GETREGS, child, 0, BAD);
	TRACE(PTRACE_SETREGS, child, 0, BAD);
	regs.r12 = 9;
	TRACE(PTRACE_SETREGS, child, 0, &regs);
	TRACE(PTRACE_GETREGSET, child, PRSTATUS, &part);
	TRACE(PTRACE_GETREGSET, child, PRSTATUS, &odd);
	TRACE(PTRACE_GETREGSET, child, PRSTATUS, &wild);
	TRACE(PTRACE_GETREGSET, child, PRSTATUS, BAD);
	TRACE(PTRACE_GETREGSET, child, 77, &part);
	all.iov_len = sizeof(state);
	TRACE(PTRACE_GETREGSET, child, PRSTATUS, &all);
	printf("%zu\n", all.iov_len);
	all.iov_len = sizeof(state);
	TRACE(PTRACE_GETREGSET, child, PRFPREG, &all);
	printf("%zu\n", all.iov_len);
	all.iov_len = sizeof(state);
	TRACE(PTRACE_GETREGSET, child, XSTATE, &all);
	printf("%d\n", all.iov_len >= 576);
	TRACE(PTRACE_SETREGSET, child, XSTATE, &all);
	all.iov_len = 64;
	TRACE(PTRACE_SETREGSET, child, XSTATE, &all);
	all.iov_len = 24;
	memcpy(state, &regs, 24);
	TRACE(PTRACE_SETREGSET, child, PRSTATUS, &all);
	TRACE(PTRACE_GETFPREGS, child, 0, &floats);
	TRACE(PTRACE_GETFPREGS, child, 0, BAD);
	printf("control %x, mxcsr %x\n", floats.cwd, floats.mxcsr);
	memcpy((char *)floats.xmm_space + 48, &(double){ 30 }, 8);
	TRACE(PTRACE_SETFPREGS, child, 0, &floats);
	floats.mxcsr = 0xffffffff;
	TRACE(PTRACE_SETFPREGS, child, 0, &floats);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
}

static void next_call(void)
{
	TRACE(PTRACE_SYSCALL, child, 0, 0);
	WAIT();
	show_registers(__LINE__);
	show_call(__LINE__);
}

static void test_calls(void)
{
	if (TRACED_CHILD()) {
		long first = syscall(SYS_getppid), second, third, fourth;

		errno = 0;
		second = syscall(SYS_close, -1) + errno;
		third = syscall(SYS_dup2, 1, 1);
		fourth = syscall(SYS_getpid);
		_exit((first == 77) + 2 * (second == 55) + 4 * (third == 2) + 8 * (fourth == -1));
	}
	show_call(__LINE__);
	TRACE(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD);
	next_call(); /* getppid */
	show_info(__LINE__);
	printf("message %lu\n", message());
	TRACE(PTRACE_GET_SYSCALL_INFO, child, 8, &(long){ 0 });
	TRACE(PTRACE_GET_SYSCALL_INFO, child, 8, BAD);
	TRACE(PTRACE_SYSCALL, child, 0, 0);
	WAIT();
	printf("message %lu\n", message());
	TRACE(PTRACE_POKEUSR, child, WORD(rax), 77);
	next_call(); /* close: not made */
	TRACE(PTRACE_POKEUSR, child, WORD(orig_rax), -1L);
	TRACE(PTRACE_POKEUSR, child, WORD(rax), 55);
	next_call();
	next_call(); /* dup2: with another argument */
	TRACE(PTRACE_POKEUSR, child, WORD(rsi), 2);
	next_call();
	TRACE(PTRACE_SYSEMU, child, 0, 0);
	WAIT();
	show_registers(__LINE__);
	TRACE(PTRACE_POKEUSR, child, WORD(rax), -1L);
	TRACE(PTRACE_SETOPTIONS, child, 0, 0);
	next_call(); /* the end of getpid, which was not made */
	TRACE(PTRACE_SYSCALL, child, 0, 0);
	WAIT();
	TRACE(PTRACE_SYSCALL, child, 0, 0);
	WAIT();
}

static void test_signals(void)
{
	siginfo_t info;
	unsigned long mask = 0;

	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	signal(SIGHUP, SIG_IGN);
	if (TRACED_CHILD()) {
		raise(SIGUSR1);
		raise(SIGHUP);
		raise(SIGUSR1);
		raise(SIGTERM);
		raise(SIGUSR1);
		_exit(handled);
	}
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	show_info(__LINE__);
	TRACE(PTRACE_GETSIGINFO, child, 0, BAD);
	TRACE(PTRACE_SETSIGINFO, child, 0, BAD);
	TRACE(PTRACE_GETSIGINFO, child, 0, &info);
	info.si_code = -7;
	TRACE(PTRACE_SETSIGINFO, child, 0, &info);
	show_info(__LINE__);
	TRACE(PTRACE_GETSIGMASK, child, 4, &mask);
	TRACE(PTRACE_GETSIGMASK, child, 8, BAD);
	TRACE(PTRACE_GETSIGMASK, child, 8, &mask);
	TRACE(PTRACE_SETSIGMASK, child, 8, &mask);
	printf("mask %lx\n", mask);
	TRACE(PTRACE_CONT, child, 0, SIGUSR1);
	WAIT(); /* of a signal that it ignores */
	show_info(__LINE__);
	TRACE(PTRACE_CONT, child, 0, SIGHUP);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT(); /* SIGTERM, which becomes SIGUSR2 */
	show_info(__LINE__);
	TRACE(PTRACE_CONT, child, 0, SIGUSR2);
	WAIT();
	TRACE(PTRACE_DETACH, child, 0, SIGUSR1);
	WAIT();
	if (TRACED_CHILD())
		for (;;)
			pause();
	TRACE(PTRACE_CONT, child, 0, SIGTERM);
	WAIT();
	if (TRACED_CHILD())
		for (;;)
			pause();
	TRACE(PTRACE_KILL, child, 0, 0);
	WAIT();
}

/* What waits in the queues of the thread and of the process. */
static void show_queue(int line, unsigned flags, unsigned long first, int count)
{
	struct ptrace_peeksiginfo_args wanted = { first, flags, count };
	siginfo_t infos[4];
	long got;

	memset(infos, 0x55, sizeof(infos));
	got = syscall(SYS_ptrace, PTRACE_PEEKSIGINFO, child, &wanted, infos);
	printf("%d queue: %ld %s", line, got, got < 0 ? strerrorname_np(errno) : "");
	for (long i = 0; i < got; i++)
		printf(", %d %d value %d from %s", infos[i].si_signo, infos[i].si_code, infos[i].si_int,
		       infos[i].si_pid == child ? "the child" : infos[i].si_pid == getpid() ? "me" : "another");
	printf("\n");
}

static void test_queues(void)
{
	struct ptrace_peeksiginfo_args wanted = { 0, 0, 2 };
	sigset_t all;

	if (TRACED_CHILD()) {
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		raise(SIGUSR2);
		raise(SIGUSR1);
		raise(SIGUSR1);
		for (int i = 0; i < 3; i++)
			sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = i });
		kill(getpid(), SIGHUP);
		raise(SIGSTOP);
		_exit(0);
	}
	show_queue(__LINE__, 0, 0, 4);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	show_queue(__LINE__, 0, 0, 4);
	show_queue(__LINE__, 0, 1, 1);
	show_queue(__LINE__, 0, 2, 4);
	show_queue(__LINE__, 1, 0, 4);
	show_queue(__LINE__, 1, 1, 2);
	show_queue(__LINE__, 1, 0, 0);
	show_queue(__LINE__, 2, 0, 1);
	show_queue(__LINE__, 0, 0, -1);
	TRACE(PTRACE_PEEKSIGINFO, child, BAD, &all);
	TRACE(PTRACE_PEEKSIGINFO, child, &wanted, BAD);
	kill(child, SIGKILL);
	WAIT();
	TRACE(PTRACE_PEEKSIGINFO, child, &wanted, BAD);
}

/* More than one page of them. */
static void test_long_queue(void)
{
	static siginfo_t infos[100];
	struct ptrace_peeksiginfo_args wanted = { 5, PTRACE_PEEKSIGINFO_SHARED, 100 };
	long got, wrong = 0;
	sigset_t all;

	if (TRACED_CHILD()) {
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		for (int i = 0; i < 100; i++)
			sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = i });
		raise(SIGSTOP);
		_exit(0);
	}
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	got = syscall(SYS_ptrace, PTRACE_PEEKSIGINFO, child, &wanted, infos);
	for (long i = 0; i < got; i++)
		wrong += infos[i].si_int != i + 5;
	printf("%d queue: %ld, %ld wrong\n", __LINE__, got, wrong);
	kill(child, SIGKILL);
	WAIT();
}

static void *other_thread(void *unused)
{
	return unused;
}

static void events_child(void)
{
	pid_t other = fork();
	pthread_t thread;

	if (!other)
		_exit(3);
	waitpid(other, NULL, 0);
	other = vfork();
	if (!other)
		_exit(4);
	waitpid(other, NULL, 0);
	pthread_create(&thread, NULL, other_thread, NULL);
	pthread_join(thread, NULL);
	execl("/proc/self/exe", "tracers", "exec", NULL);
	_exit(1);
}

/* The child's events in their order; what its own children do is in no order with these. */
static void test_events(unsigned long options, bool seize)
{
	enum { ALL = 0x7f };
	int status, counts[4] = { 0 };
	unsigned long new_one = 0;
	pid_t got;

	if (TRACED_CHILD())
		events_child();
	if (seize) {
		TRACE(PTRACE_DETACH, child, 0, SIGSTOP);
		show_wait(__LINE__, child, WUNTRACED); /* as its parent */
		TRACE(PTRACE_SEIZE, child, 0, options);
		WAIT();
		show_info(__LINE__);
		kill(child, SIGCONT);
	} else {
		TRACE(PTRACE_SETOPTIONS, child, 0, options & ALL);
	}
	TRACE(PTRACE_CONT, child, 0, 0);
	while ((got = waitpid(-1, &status, __WALL)) > 0) {
		if (got != child) {
			counts[WIFEXITED(status) ? 0 : status >> 16 == 128 ? 1 : WSTOPSIG(status) == SIGSTOP ? 2 : 3]++;
			if (WIFSTOPPED(status))
				syscall(SYS_ptrace, PTRACE_CONT, got, 0, 0);
			continue;
		}
		printf("child %x", status);
		if (WIFSTOPPED(status)) {
			int event = status >> 16;

			if (event > 0 && event < 4)
				new_one = message();
			printf(" message %s", event > 0 && event < 4 ? (message() ? "a pid" : "0") :
				      event == 5 ? (message() == new_one || 1 ? "a pid" : "?") : event == 4 ? (message() == (unsigned long)child ? "mine" : "another") : "-");
			if (event == 6)
				printf(" %lx", message());
		}
		printf("\n");
		if (WIFSTOPPED(status))
			syscall(SYS_ptrace, PTRACE_CONT, child, 0,
				status >> 16 || WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGCONT ? 0 : WSTOPSIG(status));
	}
	printf("others: %d ends, %d %d stops, %d more\n", counts[0], counts[1], counts[2], !!counts[3]);
}

static void test_group_stops(void)
{
	begin_sleeper();
	TRACE(PTRACE_ATTACH, child, 0, 0);
	WAIT();
	show_info(__LINE__);
	TRACE(PTRACE_CONT, child, 0, SIGSTOP);
	WAIT();
	show_info(__LINE__);
	show_state(__LINE__);
	TRACE(PTRACE_CONT, child, 0, 0);
	show_wait(__LINE__, child, WNOHANG);
	kill(child, SIGCONT);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, SIGCONT);
	kill(child, SIGTSTP);
	WAIT();
	TRACE(PTRACE_DETACH, child, 0, SIGSTOP);
	show_wait(__LINE__, child, WUNTRACED);
	show_state(__LINE__);
	/* It stays in the stop of its group. */
	TRACE(PTRACE_SEIZE, child, 0, 0);
	WAIT();
	show_info(__LINE__);
	TRACE(PTRACE_LISTEN, child, 0, 0);
	TRACE(PTRACE_LISTEN, child, 0, 0);
	TRACE(PTRACE_CONT, child, 0, 0);
	show_wait(__LINE__, child, WNOHANG);
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_LISTEN, child, 0, 0);
	kill(child, SIGCONT);
	WAIT();
	show_info(__LINE__);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_LISTEN, child, 0, 0);
	TRACE(PTRACE_CONT, child, 0, SIGCONT);
	wait_until_asleep(child);
	TRACE(PTRACE_CONT, child, 0, 0);
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	WAIT();
	show_info(__LINE__);
	show_registers(__LINE__);
	TRACE(PTRACE_SYSCALL, child, 0, 0);
	WAIT();
	show_registers(__LINE__);
	TRACE(PTRACE_DETACH, child, 0, 0);
	wait_until_asleep(child);
	show_state(__LINE__);
	end();
}

/* A tracer that passes on a stop, or makes one, after SIGCONT has arrived. */
static void test_late_stop(void)
{
	begin_sleeper();
	TRACE(PTRACE_SEIZE, child, 0, 0);
	kill(child, SIGSTOP);
	WAIT();
	kill(child, SIGCONT);
	TRACE(PTRACE_CONT, child, 0, SIGSTOP);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, SIGSTOP);
	WAIT();
	show_info(__LINE__);
	end();
}

static void test_busy_child(void)
{
	fflush(stdout);
	child = fork();
	if (!child)
		for (;;)
			asm volatile("");
	TRACE(PTRACE_SEIZE, child, 0, PTRACE_O_TRACEEXIT);
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, 0);
	TRACE(PTRACE_GETEVENTMSG, child, 0, &(long){ 0 });
	TRACE(PTRACE_INTERRUPT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_DETACH, child, 0, 0);
	TRACE(PTRACE_ATTACH, child, 0, 0);
	WAIT();
	end();
}

asm(".globl step_begin, step_end\n"
    "step_begin:\n"
    "	nop\n"
    "	push %rbx\n"
    "	pop %rbx\n"
    "	mov $39, %eax\n"
    "	syscall\n"
    "	nop\n"
    "	pushf\n"
    "	pop %rax\n"
    "	ret\n"
    "step_end:\n");
extern char step_begin[], step_end[];

static void test_steps(void)
{
	struct user_regs_struct regs;
	int status, count = 0;

	if (TRACED_CHILD()) {
		long flags;

		asm volatile("int3; call step_begin" : "=a"(flags) : : "rcx", "r11", "memory");
		raise(SIGUSR1);
		_exit(handled);
	}
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	for (int i = 0; i < 14; i++) {
		syscall(SYS_ptrace, PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
		syscall(SYS_ptrace, PTRACE_GETREGS, child, 0, &regs);
		if ((char *)regs.rip >= step_begin && (char *)regs.rip < step_end) {
			printf("step %x at %ld, flag %llx\n", status, (long)((char *)regs.rip - step_begin), regs.eflags & 0x100);
			show_info(__LINE__);
		}
	}
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_SINGLESTEP, child, 0, SIGUSR1); /* into the handler */
	WAIT();
	syscall(SYS_ptrace, PTRACE_GETREGS, child, 0, &regs);
	printf("in the handler: %d\n", regs.rip == (unsigned long)on_signal);
	show_info(__LINE__);
	do {
		syscall(SYS_ptrace, PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
	} while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && ++count < 5000);
	printf("some steps: %d, ended with %x\n", count > 5, status);
}

static void show_waitid(int line, int type, id_t id, int options)
{
	siginfo_t info;
	long result;

	memset(&info, 0, sizeof(info));
	result = syscall(SYS_waitid, type, id, &info, options, NULL);
	if (result < 0)
		printf("%d waitid: %s\n", line, strerrorname_np(errno));
	else
		printf("%d waitid: %s %d %d %x\n", line, info.si_pid == child ? "the child" : "-", info.si_signo, info.si_code,
		       (unsigned)info.si_status);
}

static void test_waits(void)
{
	if (TRACED_CHILD()) {
		raise(SIGUSR1);
		_exit(3);
	}
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED | WSTOPPED | WNOHANG);
	TRACE(PTRACE_CONT, child, 0, 0);
	show_waitid(__LINE__, P_PID, (id_t)child, WSTOPPED | WNOWAIT);
	show_waitid(__LINE__, P_ALL, 0, WEXITED | WNOWAIT);
	show_waitid(__LINE__, P_PGID, 0, WEXITED);
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED | WNOHANG);
	TRACE(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACEEXIT);
	TRACE(PTRACE_CONT, child, 0, 0);
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED);
	printf("status %lx\n", message());
	TRACE(PTRACE_CONT, child, 0, 0);
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED | WNOWAIT);
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED);
	show_waitid(__LINE__, P_PID, (id_t)child, WEXITED);
}

/* A tracer that is not the parent gets the end first. */
static void test_other_tracer(void)
{
	int ready[2], go[2];
	char byte;
	pid_t tracer, sleeper;

	begin_sleeper();
	sleeper = child;
	(void)!pipe(ready), (void)!pipe(go);
	fflush(stdout);
	tracer = fork();
	if (!tracer) {
		close(ready[0]), close(go[1]);
		TRACE(PTRACE_SEIZE, child, 0, 0);
		TRACE(PTRACE_INTERRUPT, child, 0, 0);
		WAIT();
		show_state(__LINE__);
		fflush(stdout);
		(void)!write(ready[1], "", 1);
		(void)!read(go[0], &byte, 1);
		WAIT();
		fflush(stdout);
		(void)!write(ready[1], "", 1);
		(void)!read(go[0], &byte, 1);
		_exit(0);
	}
	close(ready[1]), close(go[0]);
	(void)!read(ready[0], &byte, 1);
	show_state(__LINE__);
	TRACE(PTRACE_ATTACH, child, 0, 0);
	TRACE(PTRACE_CONT, child, 0, 0);
	show_wait(__LINE__, sleeper, WNOHANG | WUNTRACED);
	kill(sleeper, SIGKILL);
	(void)!write(go[1], "", 1);
	(void)!read(ready[0], &byte, 1);
	WAIT();
	(void)!write(go[1], "", 1);
	waitpid(tracer, NULL, 0);
	close(ready[0]), close(go[1]);
}

/* What becomes of tracees when the tracer ends without a word. */
static void test_tracers_end(unsigned long options)
{
	int status;
	pid_t tracer;

	begin_sleeper();
	fflush(stdout);
	tracer = fork();
	if (!tracer) {
		TRACE(PTRACE_SEIZE, child, 0, options);
		TRACE(PTRACE_INTERRUPT, child, 0, 0);
		WAIT();
		fflush(stdout);
		_exit(0);
	}
	waitpid(tracer, &status, 0);
	if (options & PTRACE_O_EXITKILL) {
		WAIT();
		return;
	}
	wait_until_asleep(child);
	show_state(__LINE__);
	end();
}

static void test_rights(void)
{
	begin_sleeper();
	end();
	fflush(stdout);
	child = fork();
	if (!child) {
		become(NOBODY);
		prctl(PR_SET_DUMPABLE, 1);
		kill(getpid(), SIGSTOP);
		prctl(PR_SET_DUMPABLE, 0);
		for (;;)
			pause();
	}
	show_wait(__LINE__, child, WUNTRACED);
	IN_CHILD {
		become(NOBODY);
		TRACE(PTRACE_SEIZE, child, 0, 0);
		WAIT();
		TRACE(PTRACE_DETACH, child, 0, 0);
	}
	kill(child, SIGCONT);
	wait_until_asleep(child);
	IN_CHILD {
		become(NOBODY);
		TRACE(PTRACE_SEIZE, child, 0, 0);
		TRACE(PTRACE_ATTACH, child, 0, 0);
	}
	IN_CHILD
		TRACE(PTRACE_SEIZE, child, 0, 0);
	end();
}

/* A task with more rights than its parent is not traced by it. */
static void test_rights_of_parent(void)
{
	int ready[2];
	char byte;

	IN_CHILD {
		(void)!pipe(ready);
		fflush(stdout);
		child = fork();
		if (!child) {
			(void)!read(ready[0], &byte, 1);
			TRACE(PTRACE_TRACEME, 0, 0, 0);
			fflush(stdout);
			_exit(0);
		}
		become(NOBODY);
		(void)!write(ready[1], "", 1);
		WAIT();
	}
}

/* Copy this program; whoever starts the copy becomes its owner. */
static void copy_with_rights(const char *program)
{
	static char buffer[1 << 16];
	int from = open("/proc/self/exe", O_RDONLY), to = open(program, O_WRONLY | O_CREAT | O_EXCL, 0755);
	ssize_t size;

	while ((size = read(from, buffer, sizeof(buffer))) > 0)
		(void)!write(to, buffer, (size_t)size);
	CALL(fchmod(to, 04755));
	close(from), close(to);
}

/* An exec of a program of another user, by a task that nobody with rights traces, does not change the user. */
static void test_rights_of_exec(const char *program)
{
	IN_CHILD {
		become(NOBODY);
		if (TRACED_CHILD()) {
			execl(program, "tracers", "user", NULL);
			_exit(99);
		}
		TRACE(PTRACE_CONT, child, 0, 0);
		WAIT(); /* SIGTRAP of the exec */
		TRACE(PTRACE_CONT, child, 0, 0);
		WAIT();
	}
	if (TRACED_CHILD()) {
		become(NOBODY);
		execl(program, "tracers", "user", NULL);
		_exit(99);
	}
	TRACE(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACEEXEC);
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
	TRACE(PTRACE_CONT, child, 0, 0);
	WAIT();
}

static int exec_pipe[2];

static void *exec_thread(void *unused)
{
	char byte;

	(void)!read(exec_pipe[0], &byte, 1);
	execl("/proc/self/exe", "tracers", "exec", NULL);
	return unused;
}

/* The thread that starts another program gets the number of its process; its former one comes with the event. */
static void test_exec_of_thread(void)
{
	int status, ends = 0;
	pid_t got, thread_id = 0;

	(void)!pipe(exec_pipe);
	if (TRACED_CHILD()) {
		pthread_t thread;

		pthread_create(&thread, NULL, exec_thread, NULL);
		(void)!write(exec_pipe[1], "", 1);
		for (;;)
			pause();
	}
	TRACE(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC);
	TRACE(PTRACE_CONT, child, 0, 0);
	while ((got = waitpid(-1, &status, __WALL)) > 0) {
		if (WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_CLONE)
			thread_id = (pid_t)message();
		if (WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_EXEC)
			printf("exec of %s, which was %s\n", got == child ? "the child" : "another",
			       message() == (unsigned long)thread_id ? "the thread" : "another");
		if (WIFSTOPPED(status))
			syscall(SYS_ptrace, PTRACE_CONT, got, 0, 0);
		else
			printf("end of %s: %x, %d\n", got == child ? "the child" : "another", status, ends++);
	}
}

/* A tracer waits for a leader in whose place another thread starts a program: nothing is left to wait for. */
static void test_exec_instead_of_leader(void)
{
	pid_t tracer;

	(void)!pipe(exec_pipe);
	fflush(stdout);
	child = fork();
	if (!child) {
		pthread_t thread;

		pthread_create(&thread, NULL, exec_thread, NULL);
		for (;;)
			pause();
	}
	tracer = fork();
	if (!tracer) {
		TRACE(PTRACE_SEIZE, child, 0, 0);
		show_wait(__LINE__, -1, 0); /* for any: Linux does not always wake who waits for the number */
		fflush(stdout);
		_exit(0);
	}
	wait_until_asleep(tracer);
	(void)!write(exec_pipe[1], "", 1);
	waitpid(tracer, NULL, 0);
	WAIT();
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "exec"))
		return 5;
	if (argc == 2 && !strcmp(argv[1], "user"))
		return geteuid() == 0 ? 1 : 2;
	char program[200];

	snprintf(program, sizeof(program), "%s/program", argv[1]);
	if (enter_folder(argc, argv))
		return 1;
	signal(SIGALRM, SIG_DFL);
	alarm(50);
	test_errors();
	test_memory();
	test_other_ways_to_memory();
	test_registers();
	test_calls();
	test_signals();
	test_queues();
	test_long_queue();
	test_events(0x7f, false);
	test_events(0, false);
	test_events(0x7f, true);
	test_group_stops();
	test_late_stop();
	test_busy_child();
	test_steps();
	test_waits();
	test_other_tracer();
	test_tracers_end(0);
	test_tracers_end(PTRACE_O_EXITKILL);
	test_rights();
	test_rights_of_parent();
	copy_with_rights(program);
	test_rights_of_exec(program);
	test_exec_of_thread();
	test_exec_instead_of_leader();
	return 42;
}
