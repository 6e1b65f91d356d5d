// SPDX-License-Identifier: Apache-2.0
/* The line discipline of a terminal: what is typed at the master of a pseudo terminal, read and echoed. */
#define _GNU_SOURCE
#include <asm/termbits.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <sys/ioctl.h>

#include "report.h"

static int master, slave;

static void show_bytes(const char *what, const unsigned char *bytes, long size)
{
	printf("  %s %ld", what, size);
	if (size < 0)
		printf(" %s", strerrorname_np(errno));
	else
		printf(" ");
	for (long i = 0; i < size; i++)
		printf(bytes[i] >= 32 && bytes[i] < 127 && bytes[i] != '\\' ? "%c" : "\\%03o", bytes[i]);
	printf("\n");
}

/* Read once from a descriptor that does not block. */
static void take(const char *what, int fd, long most)
{
	unsigned char bytes[8192];

	show_bytes(what, bytes, read(fd, bytes, most));
}

/* Read until none is left. A poll that finds none has waited for what was not processed yet. */
static void take_all(const char *what, int fd)
{
	unsigned char bytes[32768];
	long size = 0, got;
	struct pollfd p = { fd, POLLIN, 0 };

	while (size < (long)sizeof(bytes) && poll(&p, 1, 0) == 1 && p.revents & POLLIN &&
	       (got = read(fd, bytes + size, sizeof(bytes) - size)) > 0)
		size += got;
	show_bytes(what, bytes, size);
}

static struct termios2 modes_of(int fd)
{
	struct termios2 modes;

	ioctl(fd, TCGETS2, &modes);
	return modes;
}

static void set_modes(unsigned input, unsigned output, unsigned local)
{
	struct termios2 modes = modes_of(slave);

	modes.c_iflag = input, modes.c_oflag = output, modes.c_lflag = local;
	ioctl(slave, TCSETS2, &modes);
}

static void set_character(int which, int c)
{
	struct termios2 modes = modes_of(slave);

	modes.c_cc[which] = c;
	ioctl(slave, TCSETS2, &modes);
}

/* Linux processes input later. A poll that finds none waits for that, and FIONREAD for what has begun. */
static void type_bytes(const char *text, long size)
{
	struct pollfd p = { slave, POLLIN, 0 };
	int waiting;

	if (write(master, text, size) != size)
		printf("  not all was typed\n");
	poll(&p, 1, 0);
	ioctl(slave, FIONREAD, &waiting);
}

#define TYPE(text) (printf("%d type %s\n", __LINE__, #text), type_bytes(text, sizeof(text) - 1))

/* Type it; show the echo and what can be read. */
static void typed(int line, const char *name, const char *text, long size)
{
	int waiting;

	printf("%d type %s\n", line, name);
	type_bytes(text, size);
	take_all("echo", master);
	ioctl(slave, FIONREAD, &waiting);
	printf("  waiting %d\n", waiting);
	take_all("read", slave);
}

#define TYPED(text) typed(__LINE__, #text, text, sizeof(text) - 1)

static void show_modes(int fd)
{
	struct termios2 m = modes_of(fd);

	printf("modes %o %o %o %o %d %u %u", m.c_iflag, m.c_oflag, m.c_cflag, m.c_lflag, m.c_line, m.c_ispeed, m.c_ospeed);
	for (int i = 0; i < 19; i++)
		printf(" %d", m.c_cc[i]);
	printf("\n");
}

enum { COOKED = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN };

static void open_pair(void)
{
	int number, zero = 0;
	char name[32];

	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	CALL(master >= 0);
	CALL(ioctl(master, TIOCGPTN, &number));
	snprintf(name, sizeof(name), "/dev/pts/%d", number);
	CALL(open(name, O_RDWR | O_NOCTTY));
	CALL(ioctl(master, TIOCSPTLCK, &zero));
	slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	CALL(slave >= 0);
}

static void lines(void)
{
	show_modes(slave);
	show_modes(master);
	TYPED("hello\n");
	TYPED("one\rtwo\n");
	TYPED("a\tb\001c\033d\n");
	TYPED("wrong\177\177\177right\n");
	TYPED("two words\027x\n");
	TYPED("some_thing, else\027\027x\n");
	TYPED("kill me\025new\n");
	TYPED("tab\there\177\177\177\177\177\177x\n");
	TYPED("\t\t\177x\001\t\177\177y\n");
	TYPED("a\026\003b\026\177c\026\026\n");
	TYPED("reprint\022ed\n");
	TYPED("\177\177\025\027ok\n");
	TYPED("end\004");
	TYPED("of\004file\004\n");
	TYPED("\004");
	TYPED("half");
	TYPED(" a line\n");
	TYPED("\303\244\303\266\177x\n");
	TYPED("\377\n");
	TYPED("one\ntwo\nthree\n");
	TYPE("a longer line\nnext\n");
	READY(slave);
	take("part", slave, 4);
	take("part", slave, 4);
	take("part", slave, 100);
	take("part", slave, 4);
	take("part", slave, 1);
	take("none", slave, 10);
	TYPE("abc\004");
	READY(slave);
	take("all of it", slave, 3);
	take("none", slave, 3);
	TYPE("abc\004\004");
	READY(slave);
	take("all of it", slave, 3);
	take("end", slave, 3);
	take("none", slave, 3);
	take_all("echo", master);
}

static void flags(void)
{
	printf("-- flags\n");
	set_modes(ICRNL | IXON | IUTF8, OPOST | ONLCR, COOKED);
	TYPED("\303\244\303\266\177x\n");
	TYPED("\303\244\303\266\027\342\202\254\177y\n");
	set_modes(INLCR | IGNCR, OPOST | ONLCR, COOKED);
	TYPED("a\rb\n");
	TYPED("c\004");
	set_modes(ISTRIP, OPOST | ONLCR, COOKED);
	TYPED("\341\342\n");
	set_modes(IUCLC, OPOST | ONLCR, COOKED);
	TYPED("ABC\n");
	set_modes(PARMRK, OPOST | ONLCR, COOKED);
	TYPED("a\377b\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~(ECHOE | ECHOKE));
	TYPED("ab\177c\025d\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~(ECHOK | ECHOKE));
	TYPED("ab\177c\025d\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~ECHOCTL);
	TYPED("a\001b\177\177\177c\026\001\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED | ECHOPRT);
	TYPED("abc\177\177d\027e\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~ECHO);
	TYPED("quiet\177\022\025ly\n");
	set_modes(ICRNL, OPOST | ONLCR, (COOKED & ~ECHO) | ECHONL);
	TYPED("quiet\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~IEXTEN);
	TYPED("two words\027\026\022\n");
	set_modes(ICRNL, 0, COOKED);
	TYPED("a\tb\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED);
	set_character(VEOL, 'l');
	set_character(VEOL2, '2');
	TYPED("hello12345\n");
	set_character(VEOL, 0);
	set_character(VEOL2, 0);
	set_character(VERASE, '#');
	set_character(VKILL, '@');
	set_character(VEOF, 'E');
	TYPED("a#b@cd\177E");
	set_character(VERASE, 0);
	TYPED("a\000b\n");
	set_character(VERASE, 127);
	set_character(VKILL, 21);
	set_character(VEOF, 4);
}

static void raw(void)
{
	char many[300];

	printf("-- raw\n");
	memset(many, 'm', sizeof(many));
	set_modes(0, 0, 0);
	TYPED("a\003\004\r\n\177\377");
	set_modes(0, OPOST | ONLCR, ECHO | ECHOCTL);
	TYPED("a\003\r\n\t");
	set_modes(ICRNL, OPOST | ONLCR, ECHO | ECHOCTL);
	TYPED("a\003\r\n\t");
	set_modes(0, 0, 0);
	for (int minimum = 0; minimum < 5; minimum += 2)
		for (int time = 0; time < 2; time++) {
			set_character(VMIN, minimum);
			set_character(VTIME, time);
			printf("VMIN %d VTIME %d\n", minimum, time);
			READY(slave);
			take("none", slave, 10);
			TYPE("xyz");
			READY(slave);
			take("some", slave, 10);
			TYPE("abcdef");
			READY(slave);
			take("part", slave, 2);
			take("rest", slave, 10);
			take("none", slave, 10);
		}
	set_character(VMIN, 1);
	set_character(VTIME, 0);
	type_bytes(many, sizeof(many));
	READY(slave);
	take("many", slave, 250);
	take("rest", slave, 250);
	set_character(VMIN, 100);
	type_bytes(many, sizeof(many));
	READY(slave);
	take("many", slave, 250);
	take("rest", slave, 250);
	set_character(VMIN, 1);
	take_all("rest", slave);
	/* From raw to cooked mode and back, with unread bytes. */
	TYPE("raw bytes\nand more");
	READY(slave);
	set_modes(ICRNL, OPOST, COOKED);
	READY(slave);
	take("a line", slave, 100);
	take("none", slave, 100);
	TYPE("begun");
	set_modes(0, 0, 0);
	READY(slave);
	take("raw", slave, 100);
	take_all("echo", master);
}

static void output(void)
{
	static const unsigned modes[] = { 0, OPOST, OPOST | ONLCR, OPOST | OCRNL, OPOST | ONOCR, OPOST | ONLRET,
					  OPOST | OLCUC, OPOST | XTABS, OPOST | ONLCR | XTABS | ONOCR, OPOST | OCRNL | ONLRET };

	printf("-- output\n");
	for (unsigned i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		set_modes(ICRNL, modes[i], COOKED);
		printf("%o: ", modes[i]);
		CALL(write(slave, "\rab\tc\n\r\rd\b\tE\303\244\t\r\nx\n", 20));
		take_all("written", master);
	}
	set_modes(ICRNL, OPOST | ONLCR, COOKED);
	CALL(write(slave, "", 0));
	CALL(write(slave, BAD, 3));
	CALL(read(slave, BAD, 3));
}

static void flow(void)
{
	int value;

	printf("-- flow\n");
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED);
	TYPED("\023ab");
	CALL(write(slave, "stopped", 7));
	READY(slave);
	TYPED("\021");
	CALL(write(slave, "started", 7));
	take_all("written", master);
	TYPED("\023\003\n");
	set_modes(ICRNL | IXON | IXANY, OPOST | ONLCR, COOKED);
	TYPED("\023ab");
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED);
	TYPED("\023");
	set_modes(ICRNL, OPOST | ONLCR, COOKED);
	CALL(write(slave, "goes on", 7));
	take_all("written", master);
	TYPED("\n");
	CALL(ioctl(slave, TCXONC, TCOOFF));
	CALL(write(slave, "stopped", 7));
	CALL(ioctl(slave, TCXONC, TCOON));
	CALL(write(slave, "started", 7));
	take_all("written", master);
	CALL(ioctl(slave, TCXONC, TCIOFF));
	CALL(ioctl(slave, TCXONC, TCION));
	take_all("characters", master);
	CALL(ioctl(slave, TCXONC, 4));
	TYPE("typed\nmore");
	READY(slave);
	READY(master); /* Linux passes the echo on later, and a flush drops what has not arrived */
	CALL(ioctl(slave, TCFLSH, TCIFLUSH));
	READY(slave);
	CALL(ioctl(slave, FIONREAD, &value)), CALL(value);
	CALL(ioctl(slave, TIOCOUTQ, &value)), CALL(value);
	CALL(ioctl(slave, TCFLSH, TCOFLUSH));
	CALL(ioctl(slave, TCFLSH, TCIOFLUSH));
	CALL(ioctl(slave, TCFLSH, 3));
	CALL(ioctl(slave, TCSBRK, 0));
	CALL(ioctl(slave, TCSBRK, 1));
	CALL(ioctl(slave, TCSBRKP, 0));
	take_all("echo", master);
}

static void calls(void)
{
	struct winsize size = { 10, 20, 30, 40 };
	struct termios old;
	unsigned char termio[32];
	int value = 7;
	pid_t pid;

	printf("-- calls\n");
	CALL(ioctl(slave, TIOCGWINSZ, &size));
	printf("%d %d %d %d\n", size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel);
	size = (struct winsize){ 10, 20, 30, 40 };
	CALL(ioctl(master, TIOCSWINSZ, &size));
	memset(&size, 0, sizeof(size));
	CALL(ioctl(slave, TIOCGWINSZ, &size));
	printf("%d %d %d %d\n", size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel);
	CALL(ioctl(slave, TIOCSWINSZ, BAD));
	CALL(ioctl(slave, TIOCGWINSZ, BAD));
	CALL(ioctl(slave, TCGETS, BAD));
	CALL(ioctl(slave, TCSETS, BAD));
	CALL(ioctl(slave, TCSETS2, BAD));
	CALL(ioctl(slave, TCGETS, &old));
	old.c_cflag = (old.c_cflag & ~CBAUD) | B9600 | CSTOPB | PARENB | CS6 | HUPCL;
	CALL(ioctl(slave, TCSETSW, &old));
	show_modes(slave);
	CALL(ioctl(master, TCSETSF, &old));
	memset(termio, 'x', sizeof(termio));
	CALL(ioctl(slave, TCGETA, termio));
	show_bytes("termio", termio, 20);
	termio[0] = 0;
	CALL(ioctl(slave, TCSETA, termio));
	CALL(ioctl(slave, TCSETAF, termio));
	CALL(ioctl(slave, TCSETAW, termio));
	show_modes(slave);
	CALL(ioctl(slave, TIOCGSOFTCAR, &value)), CALL(value);
	value = 1;
	CALL(ioctl(slave, TIOCSSOFTCAR, &value));
	CALL(ioctl(slave, TIOCGSOFTCAR, &value)), CALL(value);
	CALL(ioctl(slave, TIOCGLCKTRMIOS, &old)), CALL(old.c_iflag);
	CALL(ioctl(slave, TIOCGETD, &value)), CALL(value);
	CALL(ioctl(slave, TIOCSETD, &value));
	CALL(ioctl(slave, TIOCEXCL, 0));
	CALL(ioctl(slave, TIOCGEXCL, &value)), CALL(value);
	CALL(ioctl(slave, TIOCNXCL, 0));
	CALL(ioctl(slave, TIOCGEXCL, &value)), CALL(value);
	CALL(ioctl(slave, TIOCMGET, &value));
	CALL(ioctl(slave, TIOCSPTLCK, &value));
	CALL(ioctl(slave, TIOCGPTN, &value));
	CALL(ioctl(slave, TIOCGPTPEER, O_RDWR));
	CALL(ioctl(slave, TIOCPKT, &value));
	CALL(ioctl(slave, 0x54ff, &value));
	CALL(ioctl(master, 0x54ff, &value));
	CALL(ioctl(master, TIOCGPTLCK, &value)), CALL(value);
	CALL(ioctl(master, TIOCGPKT, &value)), CALL(value);
	CALL(ioctl(master, TIOCGPTN, BAD));
	CALL(ioctl(master, TIOCSIG, SIGTERM));
	CALL(ioctl(master, TIOCSIG, SIGINT));
	/* It is no terminal of this process. */
	CALL(ioctl(slave, TIOCGPGRP, &pid));
	CALL(ioctl(slave, TIOCGSID, &pid));
	pid = getpgrp();
	CALL(ioctl(slave, TIOCSPGRP, &pid));
	CALL(ioctl(slave, TIOCNOTTY, 0));
	CALL(ioctl(master, TIOCGPGRP, &pid)), CALL(pid);
	CALL(ioctl(master, TIOCGSID, &pid));
	CALL(lseek(slave, 0, SEEK_CUR));
	CALL(lseek(master, 0, SEEK_SET));
	CALL(pread(slave, &value, 1, 0));
	CALL(ftruncate(slave, 0));
	CALL(fcntl(slave, F_GETFL));
	CALL(fcntl(master, F_GETFL));
}

static void limits(void)
{
	static char line[5000];
	int waiting;

	printf("-- limits\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED & ~ECHO);
	memset(line, 'x', sizeof(line));
	type_bytes(line, 4000);
	type_bytes(line, 500);
	TYPE("end\177\177\177!\n");
	READY(slave);
	CALL(ioctl(slave, FIONREAD, &waiting)), CALL(waiting);
	CALL(read(slave, line, sizeof(line)));
	printf("%c%c%c\n", line[4093], line[4094], line[4095]);
	READY(slave);
}

static void packets(void)
{
	int one = 1;

	printf("-- packets\n");
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED);
	CALL(ioctl(master, TIOCPKT, &one));
	take("none", master, 10);
	CALL(write(slave, "data", 4));
	READY(master);
	take("one", master, 1);
	take("some", master, 3);
	take("rest", master, 10);
	TYPED("\023");
	take("stop", master, 10);
	TYPED("\021");
	READY(master);
	take("start", master, 10);
	set_modes(ICRNL, OPOST | ONLCR, COOKED);
	READY(master);
	take("no flow", master, 10);
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED);
	take("flow", master, 10);
	CALL(ioctl(slave, TCFLSH, TCIFLUSH));
	CALL(ioctl(slave, TCFLSH, TCOFLUSH));
	READY(master);
	take("flushed", master, 10);
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED | EXTPROC);
	take("extproc", master, 10);
	TYPED("a\003b\n");
	TYPED("\004");
	set_modes(ICRNL | IXON, OPOST | ONLCR, COOKED);
	take("no extproc", master, 10);
	one = 0;
	CALL(ioctl(master, TIOCPKT, &one));
	CALL(write(slave, "data", 4));
	take("data", master, 10);
}

/* More echo than the buffer holds: its content differs, but it must end soon. */
static void overflow(void)
{
	static char tabs[3501], bytes[8192];
	struct timespec before, after;
	long size = 0, got;

	printf("-- overflow\n");
	set_modes(ICRNL, OPOST | ONLCR, COOKED);
	memset(tabs, '\t', sizeof(tabs));
	CALL(ioctl(slave, TCXONC, TCOOFF));
	type_bytes(tabs, sizeof(tabs));
	TYPE("\025");
	CALL(ioctl(slave, TCXONC, TCOON));
	clock_gettime(CLOCK_MONOTONIC, &before);
	CALL(write(slave, "x", 1)); /* behind the echo */
	TYPE("end\n");
	take("line", slave, 100);
	while ((got = read(master, bytes, sizeof(bytes))) > 0)
		size += got;
	clock_gettime(CLOCK_MONOTONIC, &after);
	printf("%d %d\n", size < 1 << 16, after.tv_sec - before.tv_sec < 3);
}

int main(void)
{
	setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
	open_pair();
	lines();
	flags();
	raw();
	output();
	flow();
	calls();
	limits();
	packets();
	overflow();
	return 42;
}
