/*
 * What programs that try files on a share have in common: checks of calls, of their errno, and of what is there afterwards.
 */
#ifndef FS_CHECK_H
#define FS_CHECK_H

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { USER = 1234, GROUP = 2345, OTHER = 3456 };

static int checks, wrong;

static inline void check(int good, int line, const char *what, int error)
{
	checks++;
	if (good)
		return;
	wrong++;
	printf("line %d: %s: %s\n", line, what, strerror(error));
	fflush(stdout);
}

/* The call works; the condition holds. */
#define OK(call) ({ long r_ = (long)(call); check(r_ >= 0, __LINE__, #call, errno); r_; })
#define IS(what) ({ errno = 0; check(!!(what), __LINE__, "not so: " #what, errno); })
/* The call fails with that errno. */
#define ERR(call, number) ({ errno = 0; long r_ = (long)(call); int e_ = errno; \
	check(r_ < 0 && e_ == (number), __LINE__, #call " should be " #number, e_); })

/* Run code as another user, in a process of its own, and count what it found. */
#define AS(uid, gid, code) do { int pipe_[2], seen_[2]; OK(pipe(pipe_)); fflush(stdout); \
	if (fork() == 0) { checks = wrong = 0; setgroups(0, NULL); \
		if (setgid(gid) || setuid(uid)) _exit(9); \
		code; seen_[0] = checks; seen_[1] = wrong; fflush(stdout); \
		_exit(write(pipe_[1], seen_, sizeof(seen_)) != sizeof(seen_)); } \
	close(pipe_[1]); IS(read(pipe_[0], seen_, sizeof(seen_)) == sizeof(seen_)); close(pipe_[0]); \
	checks += seen_[0]; wrong += seen_[1]; wait(NULL); } while (0)

static struct stat st;
static char buf[1 << 16];

static inline void put(const char *path, const char *text)
{
	int fd = OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));

	IS(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	OK(close(fd));
}

static inline int holds(const char *path, const char *text)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, buf, sizeof(buf));

	close(fd);
	return n == (ssize_t)strlen(text) && !memcmp(buf, text, n);
}

static inline int mode_of(const char *path)
{
	return lstat(path, &st) ? -1 : (int)(st.st_mode & 07777);
}

/* Begin in a directory; end with a line that says how many checks there were, and the program's status. */
static inline void begin(const char *directory)
{
	signal(SIGPIPE, SIG_IGN);
	umask(022);
	OK(chdir(directory));
}

static inline int end(const char *name)
{
	printf("%s: %d checks, %d wrong\n", name, checks, wrong);
	return wrong != 0;
}

#endif
