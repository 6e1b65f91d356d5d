/* Changes names, directories and descriptors while system calls use them: counts what is reached of /bad. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPENS = 30, EXECS = 10 };
static char *name; /* shared with the process that changes it */
static int good, bad, used;
static volatile bool done;
static int reached[2];

static void note(int fd)
{
	char letter;

	if (fd < 0)
		return;
	if (read(fd, &letter, 1) == 1)
		reached[letter == 'b']++;
	close(fd);
}

static void *change_directory(void *unused)
{
	while (!done) {
		fchdir(good);
		fchdir(bad);
	}
	return unused;
}

static void *change_descriptor(void *unused)
{
	while (!done) {
		dup2(good, used);
		dup2(bad, used);
	}
	return unused;
}

static void open_while(void *(*change)(void *), int directory)
{
	pthread_t thread;

	done = false;
	pthread_create(&thread, NULL, change, NULL);
	for (int i = 0; i < OPENS; i++)
		note(openat(directory, "file", O_RDONLY));
	done = true;
	pthread_join(thread, NULL);
}

static void change_name(void)
{
	for (;;) {
		memcpy(name + 1, "good", 4);
		memcpy(name + 1, "bad/", 4);
	}
}

/* Which program this is, by its file and by its first argument. */
static int which(const char *argument)
{
	char file[32] = "";

	readlink("/proc/self/exe", file, sizeof(file) - 1);
	return !strncmp(file, "/bad", 4) || !strncmp(argument, "/bad", 4) ? 2 : 1;
}

static void execute(char *program)
{
	char *arguments[] = { program, "again", NULL };
	int status = 0;
	pid_t child = fork();

	if (!child) {
		syscall(SYS_execve, program, arguments, arguments + 2);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WEXITSTATUS(status))
		reached[WEXITSTATUS(status) == 2]++;
}

int main(int argc, char **argv)
{
	pid_t changer;

	if (argc > 1)
		return which(argv[0]);
	name = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	good = open("/good", O_RDONLY | O_DIRECTORY);
	bad = open("/bad", O_RDONLY | O_DIRECTORY);
	used = dup(bad);
	strcpy(name, "/bad//file");
	changer = fork();
	if (!changer)
		change_name();
	for (int i = 0; i < OPENS; i++)
		note(open(name, O_RDONLY));
	strcpy(name + 5, "/run");
	for (int i = 0; i < EXECS; i++)
		execute(name);
	open_while(change_directory, AT_FDCWD);
	open_while(change_descriptor, used);
	kill(changer, SIGKILL);
	printf("good %d, bad %d\n", reached[0] > 0, reached[1]);
	return 0;
}
