// SPDX-License-Identifier: Apache-2.0
/* In place of mkfs.erofs: what a program can do that a hostile file has taken over. Results go into the output. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *out;

static void report(const char *what, long result)
{
	fprintf(out, "%s %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

int main(int argc, char **argv)
{
	char *const none[] = { NULL };
	struct dirent *entry;
	struct rlimit limit = { 0, 0 };
	DIR *root;

	if (argc > 1 && !strcmp(argv[argc - 1], "/tree") && !access("/tree/spin", F_OK))
		for (;;)
			;
	out = fopen("/output", "w");
	if (!out)
		return 1;
	if (!access("/tree/flood", F_OK)) {
		while (fwrite(argv, 1, 16, out) == 16)
			;
		perror("the output");
		return 2;
	}
	root = opendir("/");
	while (root && (entry = readdir(root)))
		if (entry->d_name[0] != '.')
			fprintf(out, "sees %s\n", entry->d_name);
	report("passwd", open("/etc/passwd", O_RDONLY));
	report("proc", open("/proc/1/root/etc/passwd", O_RDONLY));
	report("above", open("/../../etc/passwd", O_RDONLY));
	report("read", open("/tree/closed", O_RDONLY));
	report("change", open("/tree/closed", O_WRONLY));
	report("create", open("/tree/new", O_WRONLY | O_CREAT, 0600));
	report("root", open("/new", O_WRONLY | O_CREAT, 0600));
	report("library", open("/lib/x86_64-linux-gnu/libc.so.6", O_WRONLY));
	report("remove", unlinkat(AT_FDCWD, "/tree/closed", 0));
	report("socket", socket(AF_INET, SOCK_STREAM, 0));
	report("unix", socket(AF_UNIX, SOCK_STREAM, 0));
	report("fork", syscall(SYS_fork));
	report("clone", syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	report("clone3", syscall(SYS_clone3, 0, 0));
	report("kill", kill(getppid(), SIGKILL));
	report("trace", ptrace(PTRACE_ATTACH, 1, 0, 0));
	report("limits", prlimit(1, RLIMIT_NOFILE, &limit, NULL));
	report("mount", mount("none", "/tree", "tmpfs", 0, ""));
	report("namespace", unshare(CLONE_NEWUSER));
	report("user", setuid(1));
	report("device", mknod("/node", S_IFCHR | 0600, 0));
	report("shell", execve("/bin/sh", none, none));
	for (int fd = 3; fd < 512; fd++)
		if (fd != fileno(out) && fd != dirfd(root) && !fcntl(fd, F_GETFD))
			fprintf(out, "holds %d\n", fd);
	return fclose(out);
}
