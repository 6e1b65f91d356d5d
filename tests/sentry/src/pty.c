// SPDX-License-Identifier: Apache-2.0
/* Pseudo terminals, controlling terminals, sessions and job control. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "report.h"

static int master;
static char name[32];

static void open_master(void)
{
	int zero = 0, number;

	master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	ioctl(master, TIOCSPTLCK, &zero);
	ioctl(master, TIOCGPTN, &number);
	snprintf(name, sizeof(name), "/dev/pts/%d", number);
}

static void on_signal(int number)
{
	printf("  got %s\n", sigabbrev_np(number));
	fflush(stdout);
}

static void handle(int number)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(number, &action, NULL);
}

static void show_end(int line, pid_t pid)
{
	int status = 0;
	pid_t got = waitpid(pid, &status, WUNTRACED | WCONTINUED);

	if (got < 0)
		printf("%d wait: %s\n", line, strerrorname_np(errno));
	else if (WIFSTOPPED(status))
		printf("%d wait: stopped by %s\n", line, sigabbrev_np(WSTOPSIG(status)));
	else if (WIFCONTINUED(status))
		printf("%d wait: continued\n", line);
	else if (WIFSIGNALED(status))
		printf("%d wait: ended by %s\n", line, sigabbrev_np(WTERMSIG(status)));
	else
		printf("%d wait: %d\n", line, WEXITSTATUS(status));
	fflush(stdout);
}

#define END(pid) show_end(__LINE__, pid)

/* The terminal and the foreground group of /proc/self/stat, and whether the latter is the given group. */
static void show_stat(int line, int group)
{
	char text[512] = "", *at;
	int fd = open("/proc/self/stat", O_RDONLY), tty, foreground;

	read(fd, text, sizeof(text) - 1);
	close(fd);
	at = strrchr(text, ')');
	sscanf(at + 2, "%*c %*d %*d %*d %d %d", &tty, &foreground);
	printf("%d tty: %d group: %d\n", line, !tty ? 0 : major((unsigned)tty) == 136 ? 1 : 2,
	       foreground == group ? 1 : foreground);
	fflush(stdout);
}

#define STAT(group) show_stat(__LINE__, group)

static void opening(void)
{
	struct stat st;
	char text[64];
	int fd, other, number, one = 1;

	CALL(open("/dev/tty", O_RDWR));
	open_master();
	CALL(ioctl(master, TIOCSPTLCK, &one));
	CALL(open(name, O_RDWR | O_NOCTTY));
	number = 0;
	CALL(ioctl(master, TIOCSPTLCK, &number));
	CALL(ioctl(master, TIOCSPTLCK, BAD));
	READY(master);
	CALL(open(name, O_RDWR | O_NOCTTY));
	CALL(stat(name, &st));
	printf("%o %d %d\n", st.st_mode & S_IFMT, major(st.st_rdev), (int)minor(st.st_rdev) == atoi(name + 9));
	CALL(fchmod(4, 0666));
	CALL(stat(name, &st)), printf("%o\n", st.st_mode);
	CALL(ptsname_r(master, text, sizeof(text))), CALL(strcmp(text, name));
	CALL(ttyname_r(4, text, sizeof(text))), CALL(strcmp(text, name));
	CALL(isatty(4)), CALL(isatty(master));
	CALL(grantpt(master)), CALL(unlockpt(master));
	other = open("/proc/self/fd/4", O_RDWR | O_NOCTTY);
	CALL(other > 0), CALL(isatty(other));
	CALL(close(other));
	other = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	CALL(other > 0), CALL(fcntl(other, F_GETFD)), CALL(fcntl(other, F_GETFL));
	CALL(ttyname_r(other, text, sizeof(text))), CALL(strcmp(text, name));
	CALL(close(other));
	CALL(unlink(name)), CALL(mkdir("/dev/pts/x", 0700)), CALL(open("/dev/pts/x", O_CREAT | O_RDWR, 0600));
	CALL(open("/dev/pts/99999", O_RDWR)), CALL(open("/dev/pts/007", O_RDWR));
	CALL(access("/dev/pts/ptmx", F_OK));
	/* The last descriptor closes: the master reports a hangup, and the slave can be opened again. */
	CALL(write(4, "last", 4));
	CALL(close(4));
	READY(master);
	CALL(read(master, text, sizeof(text)));
	CALL(read(master, text, sizeof(text)));
	fd = open(name, O_WRONLY | O_NOCTTY);
	CALL(fd > 0);
	READY(master);
	CALL(read(fd, text, 1)), CALL(write(fd, "x", 1)), CALL(read(master, text, sizeof(text)));
	/* The master closes. */
	other = open(name, O_RDWR | O_NOCTTY);
	CALL(close(master));
	READY(other);
	CALL(read(other, text, 1)), CALL(write(other, "x", 1)), CALL(ioctl(other, TCGETS, text));
	CALL(ioctl(other, TIOCSPGRP, text)), CALL(ioctl(other, FIONREAD, text));
	CALL(open(name, O_RDWR)), CALL(access(name, F_OK));
	CALL(close(other)), CALL(close(fd));
}

static void controlling(void)
{
	int fd, other;
	pid_t pid;

	CALL(setsid() == getpid());
	STAT(-1);
	fd = open(name, O_RDWR | O_NOCTTY);
	STAT(-1);
	CALL(ioctl(fd, TIOCGPGRP, &pid)), CALL(ioctl(fd, TIOCNOTTY, 0)), CALL(open("/dev/tty", O_RDWR));
	CALL(ioctl(fd, TIOCSCTTY, 0));
	STAT(getpid());
	CALL(ioctl(fd, TIOCSCTTY, 0));
	CALL(ioctl(fd, TIOCGPGRP, &pid)), CALL(pid == getpid());
	CALL(ioctl(master, TIOCGPGRP, &pid)), CALL(pid == getpid());
	CALL(tcgetsid(fd) == getpid()), CALL(tcgetsid(master) == getpid());
	other = open("/dev/tty", O_RDWR);
	CALL(other > 0), CALL(isatty(other));
	IN_CHILD {
		STAT(getppid()), CALL(ioctl(fd, TIOCSCTTY, 0)), CALL(setsid() == getpid()), STAT(-1);
		CALL(open("/dev/tty", O_RDWR)), CALL(ioctl(fd, TIOCSCTTY, 0)), CALL(ioctl(fd, TIOCGPGRP, &pid));
		CALL(ioctl(fd, TIOCGSID, &pid)), CALL(tcsetpgrp(fd, getpid())), CALL(tcgetpgrp(master) == getppid());
	}
	IN_CHILD {
		CALL(ioctl(fd, TIOCNOTTY, 0)), STAT(-1);
	}
	CALL(tcsetpgrp(fd, -1)), CALL(tcsetpgrp(fd, 0x3fffff)), CALL(tcsetpgrp(fd, 1)), CALL(ioctl(fd, TIOCSPGRP, BAD));
	CALL(tcsetpgrp(master, getpid()));
	handle(SIGHUP), handle(SIGCONT);
	CALL(ioctl(fd, TIOCNOTTY, 0));
	STAT(-1);
	CALL(tcgetpgrp(master)), CALL(tcgetsid(master));
	close(fd);
	/* An open for reading makes it the controlling terminal of a leader. */
	fd = open(name, O_WRONLY);
	STAT(-1);
	CALL(ioctl(fd, TIOCNOTTY, 0));
	close(fd);
	fd = open(name, O_RDWR);
	STAT(getpid());
	CALL(close(fd) | close(other));
	STAT(getpid());
	fd = open("/dev/tty", O_RDWR);
	CALL(fd > 0);
}

static pid_t start_group(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		setpgid(pid, pid);
	else
		setpgid(0, 0);
	return pid;
}

static void background(void)
{
	struct termios modes;
	char text[16];
	int fd, ready[2], done[2];
	pid_t pid;

	setsid();
	fd = open(name, O_RDWR);
	tcgetattr(fd, &modes);
	pid = start_group();
	if (!pid) {
		CALL(read(fd, text, sizeof(text)));
		_exit(7);
	}
	END(pid);
	CALL(tcsetpgrp(fd, pid));
	kill(pid, SIGCONT);
	END(pid);
	write(master, "line\n", 5); /* what was typed before would be read while this waits */
	END(pid);
	CALL(tcsetpgrp(fd, getpid()) < 0); /* this is in the background: it would stop, but has no other group in its session */
	signal(SIGTTOU, SIG_IGN);
	CALL(tcsetpgrp(fd, getpid()));
	signal(SIGTTOU, SIG_DFL);
	/* Blocked or ignored. */
	pid = start_group();
	if (!pid) {
		signal(SIGTTIN, SIG_IGN);
		CALL(read(fd, text, sizeof(text)));
		CALL(write(fd, "x", 1));
		_exit(0);
	}
	END(pid);
	/* Changes of modes stop, output does only with TOSTOP. */
	pid = start_group();
	if (!pid) {
		CALL(write(fd, "x", 1));
		CALL(tcsetattr(fd, TCSANOW, &modes));
		_exit(0);
	}
	END(pid);
	kill(pid, SIGKILL);
	END(pid);
	modes.c_lflag |= TOSTOP;
	CALL(tcsetattr(fd, TCSANOW, &modes));
	pid = start_group();
	if (!pid) {
		CALL(write(fd, "x", 1));
		_exit(0);
	}
	END(pid);
	kill(pid, SIGKILL);
	END(pid);
	pid = start_group();
	if (!pid) {
		handle(SIGTTOU);
		CALL(write(fd, "x", 1));
		signal(SIGTTOU, SIG_IGN);
		CALL(write(fd, "x", 1));
		CALL(tcsetpgrp(fd, getpid()));
		CALL(tcgetpgrp(fd) == getpid());
		_exit(0);
	}
	END(pid);
	signal(SIGTTOU, SIG_IGN);
	CALL(tcsetpgrp(fd, getpid()));
	/* An orphaned group does not stop. */
	pipe(ready);
	pipe(done);
	pid = start_group();
	if (!pid) {
		if (!fork()) {
			close(ready[1]);
			read(ready[0], text, 1); /* until the parent has ended */
			signal(SIGTTOU, SIG_DFL);
			CALL(read(fd, text, sizeof(text)));
			CALL(write(fd, "x", 1));
			CALL(tcsetattr(fd, TCSANOW, &modes));
			CALL(tcsetpgrp(fd, getpid()));
			fflush(stdout);
			_exit(0);
		}
		_exit(0);
	}
	close(ready[0]);
	END(pid);
	close(ready[1]);
	close(done[1]);
	read(done[0], text, 1); /* until the orphan has ended, too */
}

static void typing(void)
{
	int fd, status;
	pid_t pid;

	setsid();
	fd = open(name, O_RDWR);
	handle(SIGWINCH);
	for (int i = 0; i < 3; i++) {
		pid = start_group();
		if (!pid)
			for (;;)
				pause();
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(fd, pid);
		write(master, i == 0 ? "\003" : i == 1 ? "\034" : "\032", 1);
		waitpid(pid, &status, WUNTRACED);
		printf("%s\n", WIFSTOPPED(status) ? "stopped" : sigabbrev_np(WTERMSIG(status)));
		kill(pid, SIGKILL);
		if (i == 2)
			END(pid);
	}
	tcsetpgrp(fd, getpid());
	{
		struct winsize size = { 30, 90, 0, 0 };

		CALL(ioctl(master, TIOCSWINSZ, &size));
		CALL(ioctl(fd, TIOCSWINSZ, &size));
		size.ws_col = 91;
		CALL(ioctl(fd, TIOCSWINSZ, &size));
		CALL(ioctl(master, TIOCGWINSZ, &size)), CALL(size.ws_col);
	}
	handle(SIGINT);
	CALL(ioctl(master, TIOCSIG, SIGINT));
	CALL(ioctl(fd, TIOCSTI, "z"));
}

/* Effects of the master's end on a session, and of its leader's end on the foreground. */
static void hangup(void)
{
	char text[16];
	int fd, ready[2];
	sigset_t none, both;
	pid_t leader;

	pipe(ready);
	fflush(stdout);
	sigemptyset(&none), sigemptyset(&both), sigaddset(&both, SIGHUP), sigaddset(&both, SIGCONT);
	leader = fork();
	if (!leader) {
		setsid();
		fd = open(name, O_RDWR);
		handle(SIGHUP);
		handle(SIGCONT);
		sigprocmask(SIG_BLOCK, &both, NULL);
		close(master);
		STAT(getpid());
		READY(fd);
		write(ready[1], "", 1);
		while (read(fd, text, 1) > 0) /* until the hangup, after which the signals are pending */
			;
		sigsuspend(&none);
		CALL(read(fd, text, 1)), CALL(write(fd, "x", 1)), CALL(open("/dev/tty", O_RDWR));
		STAT(-1);
		_exit(0);
	}
	read(ready[0], text, 1);
	close(master);
	END(leader);
	/* Its foreground gets a signal when the leader ends. */
	open_master();
	fflush(stdout);
	leader = fork();
	if (!leader) {
		pid_t pid;

		setsid();
		fd = open(name, O_RDWR);
		pid = start_group();
		if (!pid) {
			sigset_t set;
			int got;

			sigemptyset(&set), sigaddset(&set, SIGHUP);
			sigprocmask(SIG_BLOCK, &set, NULL);
			write(ready[1], "", 1);
			sigwait(&set, &got);
			got = (int)read(fd, text, sizeof(text)); /* what is typed after the leader's end */
			STAT(-1);
			CALL(got);
			write(ready[1], "", 1);
			_exit(0);
		}
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(fd, pid);
		read(ready[0], text, 1);
		_exit(0);
	}
	END(leader);
	write(master, "after\n", 6);
	read(ready[0], text, 1);
	close(master);
	/* A hangup by a call: the terminal can be opened again. */
	open_master();
	IN_CHILD {
		setsid();
		fd = open(name, O_RDWR);
		handle(SIGHUP), handle(SIGCONT);
		CALL(vhangup()), STAT(-1), READY(fd);
		CALL(read(fd, text, 1)), CALL(write(fd, "x", 1)), READY(master);
		close(fd);
		READY(master);
		fd = open(name, O_RDWR);
		CALL(fd > 0), STAT(getpid()), CALL(write(fd, "again", 5));
		CALL(read(master, text, sizeof(text))), CALL(ioctl(fd, TIOCVHANGUP, 0)), CALL(write(fd, "x", 1));
	}
	close(master);
}

static void groups(void)
{
	pid_t pid;
	int hold[2];

	pipe(hold);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		close(hold[1]);
		read(hold[0], &pid, 1);
		_exit(0);
	}
	CALL(setpgid(0, -1)), CALL(setpgid(1 << 21, 0)), CALL(setpgid(pid, 1 << 21)), CALL(setpgid(-1, 0));
	CALL(setpgid(pid, pid)), CALL(getpgid(pid) == pid), CALL(setpgid(pid, getpgrp())), CALL(setpgid(pid, pid));
	CALL(getpgid(1 << 21)), CALL(getsid(1 << 21)), CALL(getsid(pid) == getsid(0));
	IN_CHILD {
		CALL(setsid() == getpid()), CALL(setsid()), CALL(setpgid(0, 0)), CALL(getpgrp() == getpid());
		CALL(setpgid(pid, 0));
	}
	IN_CHILD {
		CALL(setpgid(0, 0)), CALL(setsid());
	}
	close(hold[0]), close(hold[1]);
	END(pid);
}

int main(void)
{
	setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
	signal(SIGALRM, SIG_DFL);
	alarm(30);
	IN_CHILD {
		setsid();
		opening();
	}
	open_master();
	IN_CHILD
		controlling();
	close(master);
	open_master();
	IN_CHILD
		background();
	close(master);
	open_master();
	IN_CHILD
		typing();
	close(master);
	open_master();
	hangup();
	groups();
	return 42;
}
