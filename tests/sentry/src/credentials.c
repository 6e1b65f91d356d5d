/* SPDX-License-Identifier: Apache-2.0 */
/* Users, groups and capabilities that change, and what a program may do with them. Runs as root in a new folder. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "report.h"

enum { SOMEBODY = 54321 };

/* Lines of /proc/self/status. The host's root may lack CAP_SYS_RESOURCE. */
static void show_state(int line)
{
	FILE *file = fopen("/proc/self/status", "r");
	char text[256];

	if (!file) {
		printf("%d   no status: %s\n", line, strerrorname_np(errno));
		return;
	}
	while (fgets(text, sizeof(text), file)) {
		if (!strncmp(text, "Cap", 3))
			printf("%d   %.8s%llx\n", line, text, strtoull(text + 8, NULL, 16) & ~(1ull << CAP_SYS_RESOURCE));
		if (!strncmp(text, "Uid", 3) || !strncmp(text, "Gid", 3) || !strncmp(text, "Groups", 6) || !strncmp(text, "NoNew", 5))
			printf("%d   %s", line, text);
	}
	fclose(file);
	printf("%d   dumpable %d, keep %d\n", line, prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS));
}

#define STATE() show_state(__LINE__)

static void show_ids(int line)
{
	unsigned ids[6];

	getresuid(&ids[0], &ids[1], &ids[2]);
	getresgid(&ids[3], &ids[4], &ids[5]);
	printf("%d   %u %u %u, %u %u %u\n", line, ids[0], ids[1], ids[2], ids[3], ids[4], ids[5]);
}

#define IDS() show_ids(__LINE__)

/* -- numbers -- */

static void users(void)
{
	IN_CHILD {
		TRY(setuid, -1);
		TRY(setreuid, 1, 2);
		IDS();
		STATE();
		TRY(setreuid, -1, 3);
		TRY(setreuid, -1, 1);
		IDS();
		TRY(setreuid, 2, -1);
		TRY(setuid, 0);
		TRY(setuid, 2);
		IDS();
	}
	IN_CHILD {
		TRY(setresuid, 1, 2, 3);
		IDS();
		TRY(setresuid, 4, -1, -1);
		TRY(setresuid, 3, 1, 2);
		IDS();
		TRY(setresuid, -1, -1, -1);
		TRY(setuid, 2);
		IDS();
		TRY(setuid, 1);
		IDS();
		STATE();
	}
	IN_CHILD {
		TRY(setuid, NOBODY);
		IDS();
		STATE();
		TRY(setuid, 0);
		TRY(setreuid, 0, -1);
		TRY(setresuid, -1, 0, -1);
		TRY(setgid, 0);
		TRY(setgid, 7);
		TRY(setgroups, 0, NULL);
	}
	IN_CHILD {
		TRY(setresuid, -1, NOBODY, -1); /* and back */
		STATE();
		TRY(setresuid, -1, 0, -1);
		STATE();
		TRY(setresuid, NOBODY, NOBODY, 0);
		STATE();
		TRY(setuid, 0);
		STATE();
	}
}

static void groups(void)
{
	const unsigned some[] = { 30, 10, 20, 10 }, bad[] = { 1, -1u };
	unsigned got[8];

	IN_CHILD {
		TRY(setgid, 5);
		TRY(setregid, 6, 7);
		IDS();
		TRY(setresgid, 1, 2, 3);
		IDS();
		TRY(setregid, -1, 9);
		IDS();
		TRY(setgroups, 4, some);
		TRY(getgroups, 0, NULL);
		TRY(getgroups, 3, got);
		TRY(getgroups, -1, got);
		TRY(getgroups, 8, BAD);
		if (TRY(getgroups, 8, got) == 4)
			printf("%u %u %u %u\n", got[0], got[1], got[2], got[3]);
		STATE();
		TRY(setgroups, 65537, some);
		TRY(setgroups, 2, BAD);
		TRY(setgroups, 2, bad);
		TRY(setgroups, -1, some);
		become(NOBODY);
		TRY(setgroups, 4, some);
		TRY(setgid, 1);
		TRY(setregid, 1, -1);
		TRY(setresgid, -1, -1, 1);
		TRY(getgroups, 8, got);
	}
	IN_CHILD {
		TRY(setresgid, 1, 2, 3);
		TRY(setresuid, 1, 2, 3);
		TRY(setregid, 3, -1);
		TRY(setregid, 2, 3);
		IDS();
		TRY(setgid, 1);
		TRY(setgid, 2);
		TRY(setgid, 3);
		IDS();
		TRY(getresuid, BAD, got, got);
		TRY(getresgid, got, got, BAD);
	}
}

static void file_users(void)
{
	chmod(".", 0777);
	IN_CHILD {
		TRY(setfsuid, NOBODY);
		TRY(setfsuid, -1);
		STATE();
		TRY(setfsgid, NOBODY);
		TRY(setfsgid, -1);
		struct stat status;
		close(open("own", O_CREAT | O_RDWR, 0640));
		CALL(stat("own", &status));
		printf("%u %u\n", status.st_uid, status.st_gid);
		TRY(setfsuid, 0);
		STATE();
		become(NOBODY);
		TRY(setfsuid, 1);
		TRY(setfsuid, NOBODY);
		TRY(setfsgid, 1);
		TRY(setfsgid, -1);
	}
}

/* -- capabilities -- */

static long get(int pid, unsigned version, struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct header = { version, pid };
	long result = syscall(SYS_capget, &header, data);

	if (header.version != version)
		printf("  version %x\n", header.version);
	return result;
}

static long set(int pid, unsigned effective, unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, pid };
	struct __user_cap_data_struct data[2] = { { effective, permitted, inheritable } };

	return syscall(SYS_capset, &header, data);
}

static void capabilities(void)
{
	struct __user_cap_header_struct bad = { 1, 0 };
	struct __user_cap_data_struct data[2] = { 0 };
	const unsigned chown = 1 << CAP_CHOWN, kill = 1 << CAP_KILL, pcap = 1 << CAP_SETPCAP;

	CALL(get(0, _LINUX_CAPABILITY_VERSION_3, data));
	printf("%x %x %x\n", data[0].effective & ~(1 << CAP_SYS_RESOURCE), data[1].permitted, data[0].inheritable);
	CALL(get(getpid(), _LINUX_CAPABILITY_VERSION_2, data));
	CALL(get(0, _LINUX_CAPABILITY_VERSION_1, data));
	CALL(get(-1, _LINUX_CAPABILITY_VERSION_3, data));
	CALL(get(1 << 30, _LINUX_CAPABILITY_VERSION_3, data));
	CALL(get(0, 1, data));
	CALL(get(0, 1, NULL));
	CALL(get(-1, _LINUX_CAPABILITY_VERSION_3, NULL));
	CALL(get(0, _LINUX_CAPABILITY_VERSION_3, BAD));
	TRY(capget, BAD, data);
	TRY(capset, BAD, data);
	TRY(capset, &bad, data);
	IN_CHILD {
		bad.version = _LINUX_CAPABILITY_VERSION_3;
		TRY(capset, &bad, BAD);
		CALL(set(1 << 30, 0, 0, 0));
		CALL(set(getppid(), 0, 0, 0));
		CALL(set(getpid(), chown | kill | pcap, chown | kill | pcap, kill));
		STATE();
		CALL(set(0, chown | 2, chown, 0));
		CALL(set(0, chown | 2, chown | 2, 0));
		CALL(set(0, 0, chown | kill | pcap, chown));
		CALL(set(0, chown, chown | kill, chown | kill | 2));
		CALL(set(0, chown, chown | kill, kill));
		STATE();
		CALL(set(0, chown, chown, kill));
		CALL(set(0, 0, 0, 0));
		STATE();
		CALL(set(0, 0, 0, kill));
		TRY(setuid, NOBODY);
	}
	IN_CHILD {
		CALL(prctl(PR_CAPBSET_READ, CAP_KILL));
		CALL(prctl(PR_CAPBSET_READ, 41));
		CALL(prctl(PR_CAPBSET_READ, -1ul));
		CALL(prctl(PR_CAPBSET_DROP, CAP_KILL));
		CALL(prctl(PR_CAPBSET_READ, CAP_KILL));
		CALL(prctl(PR_CAPBSET_DROP, 64));
		STATE();
		CALL(set(0, pcap, pcap | chown, kill));
		become(NOBODY);
		CALL(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
		CALL(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT));
	}
}

static void keep(void)
{
	const unsigned chown = 1 << CAP_CHOWN, kill = 1 << CAP_KILL;

	IN_CHILD {
		CALL(prctl(PR_SET_KEEPCAPS, 2));
		CALL(prctl(PR_SET_KEEPCAPS, 1));
		CALL(prctl(PR_GET_SECUREBITS));
		TRY(setresuid, NOBODY, NOBODY, NOBODY);
		STATE();
		CALL(set(0, chown, chown | kill, chown));
		STATE();
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 99, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, 77, CAP_KILL, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_KILL, 1, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0));
		STATE();
		fflush(stdout);
		execl("/proc/self/exe", "credentials", "state", NULL);
	}
	IN_CHILD {
		CALL(prctl(PR_SET_SECUREBITS, 1 << 20));
		CALL(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_KEEP_CAPS_LOCKED));
		CALL(prctl(PR_GET_SECUREBITS));
		CALL(prctl(PR_SET_KEEPCAPS, 0));
		CALL(prctl(PR_SET_SECUREBITS, 0));
		TRY(setresuid, NOBODY, NOBODY, NOBODY);
		STATE();
		CALL(set(0, 0, chown, chown));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
		STATE();
	}
	IN_CHILD {
		CALL(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE));
		CALL(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT_LOCKED));
		CALL(set(0, chown, chown, chown));
		CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		fflush(stdout);
		execl("/proc/self/exe", "credentials", "state", NULL);
	}
}

/* -- programs -- */

static void copy_self(const char *name, unsigned mode, unsigned user, unsigned group)
{
	int from = open("/proc/self/exe", O_RDONLY), to = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0700);
	struct stat status;

	fstat(from, &status);
	while (status.st_size > 0) {
		ssize_t part = sendfile(to, from, NULL, 1 << 20);

		if (part <= 0)
			break;
		status.st_size -= part;
	}
	close(from);
	if (fchown(to, user, group) || fchmod(to, mode))
		puts("cannot copy");
	close(to);
}

static void programs(void)
{
	copy_self("setuid", 04755, 0, 0);
	copy_self("setgid", 02755, SOMEBODY, SOMEBODY);
	copy_self("both", 06755, SOMEBODY, SOMEBODY);
	copy_self("secret", 0711, 0, 0);
	copy_self("setlock", 02745, SOMEBODY, SOMEBODY);
	static const char *const names[] = { "setuid", "setgid", "both", "secret", "setlock" };
	for (unsigned i = 0; i < 5; i++) {
		IN_CHILD {
			puts(names[i]);
			become(NOBODY);
			fflush(stdout);
			execl(names[i], names[i], "state", NULL);
			puts(strerrorname_np(errno));
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		IN_CHILD {
			puts(names[i]);
			become(NOBODY);
			CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
			fflush(stdout);
			execl(names[i], names[i], "state", NULL);
		}
	}
	IN_CHILD {
		fflush(stdout);
		execl("both", "both", "state", NULL);
	}
	IN_CHILD { /* gets capabilities back */
		CALL(set(0, 0, 0, 0));
		CALL(prctl(PR_SET_PDEATHSIG, SIGUSR1));
		fflush(stdout);
		execl("/proc/self/exe", "credentials", "state", NULL);
	}
	IN_CHILD {
		TRY(setresuid, 0, NOBODY, NOBODY);
		fflush(stdout);
		execl("/proc/self/exe", "credentials", "state", NULL);
	}
	IN_CHILD {
		TRY(setresuid, NOBODY, 0, 0);
		fflush(stdout);
		execl("secret", "secret", "state", NULL);
	}
}

/* -- files -- */

static void show_file(const char *name)
{
	struct stat status;

	if (!stat(name, &status))
		printf("   %s %o %u %u\n", name, status.st_mode, status.st_uid, status.st_gid);
}

static void make_files(void)
{
	static const struct { const char *name; unsigned mode, user, group; } files[] = {
		{ "f000", 0000, NOBODY, NOBODY }, { "f600", 0600, 0, 0 }, { "f644", 0644, 0, 0 }, { "f060", 0060, 0, SOMEBODY },
		{ "f006", 0006, 0, 0 }, { "f070", 0070, NOBODY, SOMEBODY }, { "mine", 0640, NOBODY, NOBODY },
		{ "x100", 0100, 0, 0 }, { "x711", 0711, 0, 0 },
	};
	static const struct { const char *name; unsigned mode, user, group; } folders[] = {
		{ "d700", 0700, 0, 0 }, { "d755", 0755, 0, 0 }, { "d777", 0777, 0, 0 }, { "d1777", 01777, 0, 0 },
		{ "d711", 0711, 0, 0 }, { "d2777", 02777, 0, SOMEBODY }, { "ours", 0700, NOBODY, NOBODY },
	};
	char name[64];

	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		close(open(files[i].name, O_CREAT | O_WRONLY, 0600));
		if (chown(files[i].name, files[i].user, files[i].group) || chmod(files[i].name, files[i].mode))
			puts("cannot prepare");
	}
	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		mkdir(folders[i].name, 0700);
		snprintf(name, sizeof(name), "%s/f", folders[i].name);
		close(open(name, O_CREAT | O_WRONLY, 0644));
		if (chown(folders[i].name, folders[i].user, folders[i].group) || chmod(folders[i].name, folders[i].mode))
			puts("cannot prepare");
	}
}

static void try_files(void)
{
	static const char *const files[] = { "f000", "f600", "f644", "f060", "f006", "f070", "mine", "x100", "x711" };
	static const char *const folders[] = { "d700", "d755", "d777", "d1777", "d711", "d2777", "ours" };
	char name[64];
	int fd;

	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		puts(files[i]);
		CALL(access(files[i], R_OK));
		CALL(access(files[i], W_OK));
		CALL(access(files[i], X_OK));
		CALL((fd = open(files[i], O_RDONLY)) < 0 ? fd : close(fd));
		CALL((fd = open(files[i], O_WRONLY)) < 0 ? fd : close(fd));
		CALL((fd = open(files[i], O_RDONLY | O_NOATIME)) < 0 ? fd : close(fd));
		CALL(truncate(files[i], 0));
		CALL(chmod(files[i], 02755));
		show_file(files[i]);
		CALL(chown(files[i], -1, -1));
		CALL(chown(files[i], NOBODY, -1));
		CALL(chown(files[i], -1, SOMEBODY));
		CALL(chown(files[i], 0, 0));
		CALL(utimensat(AT_FDCWD, files[i], NULL, 0));
		CALL(utimensat(AT_FDCWD, files[i], (struct timespec[]){ { 1, 0 }, { 2, 0 } }, 0));
		CALL(setxattr(files[i], "user.a", "b", 1, 0));
		CALL(setxattr(files[i], "trusted.a", "b", 1, 0));
		CALL(link(files[i], "d777/link"));
		CALL(unlink("d777/link"));
		show_file(files[i]);
	}
	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		puts(folders[i]);
		snprintf(name, sizeof(name), "%s/f", folders[i]);
		CALL(access(name, F_OK));
		CALL((fd = open(folders[i], O_RDONLY)) < 0 ? fd : close(fd));
		CALL(rename(name, "d777/g"));
		CALL(rename("d777/g", name));
		CALL(unlink(name));
		snprintf(name, sizeof(name), "%s/new", folders[i]);
		CALL((fd = open(name, O_CREAT | O_WRONLY, 02775)) < 0 ? fd : close(fd));
		show_file(name);
		CALL(unlink(name));
		CALL(mkdir(name, 0755));
		show_file(name);
		CALL(rmdir(name));
		CALL(mknod(name, S_IFCHR | 0600, makedev(1, 3)));
		CALL(symlink("x", name));
		CALL(chdir(folders[i]) ? -1 : chdir(".."));
		CALL(rmdir(folders[i]));
	}
	CALL(chroot("."));
}

static void files(void)
{
	unsigned group = SOMEBODY;

	make_files();
	IN_CHILD {
		syscall(SYS_setgroups, 1, &group);
		syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY);
		syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY);
		try_files();
	}
	IN_CHILD {
		TRY(setresuid, NOBODY, 0, 0); /* access() asks for the real user */
		CALL(access("f600", R_OK));
		CALL(faccessat(AT_FDCWD, "f600", R_OK, AT_EACCESS));
		TRY(faccessat2, AT_FDCWD, "f600", R_OK, AT_EACCESS);
		TRY(faccessat2, AT_FDCWD, "f600", R_OK, 0);
	}
	IN_CHILD {
		int fd;

		TRY(setresuid, 0, NOBODY, 0);
		CALL(access("f600", R_OK));
		CALL(faccessat(AT_FDCWD, "f600", R_OK, AT_EACCESS));
		CALL(open("f600", O_RDONLY));
		TRY(setresuid, 0, 0, 0);
		CALL(set(0, 1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_READ_SEARCH, 0));
		CALL((fd = open("f000", O_RDONLY)) < 0 ? fd : close(fd));
		CALL((fd = open("f000", O_WRONLY)) < 0 ? fd : close(fd));
		CALL(access("ours/f", F_OK));
		CALL(chown("f600", 1, 1));
	}
}

/* -- others -- */

/* A child that waits with other credentials until it is killed. */
static pid_t waiting(unsigned id)
{
	int ready[2];
	pid_t child;
	char byte;

	if (pipe(ready))
		return -1;
	fflush(stdout);
	child = fork();
	if (!child) {
		become(id);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (read(ready[0], &byte, 1) != 1)
		puts("it did not start");
	close(ready[0]);
	close(ready[1]);
	return child;
}

static void others(void)
{
	pid_t other = waiting(SOMEBODY), mine = waiting(NOBODY), root = waiting(0);
	char name[64];

	IN_CHILD {
		become(NOBODY);
		CALL(kill(other, 0));
		CALL(kill(other, SIGTERM));
		CALL(kill(other, SIGCONT));
		CALL(kill(mine, 0));
		CALL(kill(mine, SIGCONT));
		CALL(kill(root, 0));
		CALL(kill(root, 65));
		CALL(kill(1 << 30, 0));
		TRY(tgkill, other, other, SIGTERM);
		TRY(tkill, root, SIGTERM);
		TRY(tkill, mine, 0);
		CALL(sigqueue(other, SIGTERM, (union sigval){ 0 }));
		CALL(sigqueue(mine, 0, (union sigval){ 0 }));
		CALL(setpriority(PRIO_PROCESS, 0, 5));
		CALL(getpriority(PRIO_PROCESS, 0));
		CALL(setpriority(PRIO_PROCESS, 0, 1));
		CALL(setpriority(PRIO_PROCESS, other, 5));
		CALL(getpriority(PRIO_PROCESS, other));
		struct rlimit limit;
		TRY(prlimit64, other, RLIMIT_CORE, NULL, &limit);
		TRY(prlimit64, mine, RLIMIT_CORE, NULL, &limit);
		snprintf(name, sizeof(name), "/proc/%d/environ", other);
		CALL(open(name, O_RDONLY));
		snprintf(name, sizeof(name), "/proc/%d/cwd", other);
		CALL(readlink(name, name + 32, 1));
		snprintf(name, sizeof(name), "/proc/%d/exe", root);
		CALL(readlink(name, name + 32, 1));
		snprintf(name, sizeof(name), "/proc/%d/ns/net", root);
		CALL(readlink(name, name + 32, 1));
		CALL(open(name, O_RDONLY));
		CALL(readlink("/proc/self/exe", name + 32, 1));
		CALL(open("/proc/self/environ", O_RDONLY) > 0);
		CALL(open("/proc/self/fd", O_RDONLY) > 0);
		CALL(access("/proc/self/fd/0", F_OK));
		CALL(kill(-1, 0));
	}
	IN_CHILD {
		struct rlimit limit = { 10, 20 };

		CALL(setrlimit(RLIMIT_CORE, &limit));
		become(NOBODY);
		limit.rlim_max = 21;
		CALL(setrlimit(RLIMIT_CORE, &limit));
		limit.rlim_cur = 20, limit.rlim_max = 20;
		CALL(setrlimit(RLIMIT_CORE, &limit));
		limit.rlim_cur = limit.rlim_max = 15;
		CALL(setrlimit(RLIMIT_CORE, &limit));
		limit.rlim_cur = 16;
		CALL(setrlimit(RLIMIT_CORE, &limit));
	}
	kill(other, SIGKILL), kill(mine, SIGKILL), kill(root, SIGKILL);
	while (wait(NULL) > 0)
		;
}

/* -- priorities -- */

static void policies(void)
{
	struct { unsigned size, policy; unsigned long flags; int nice; unsigned priority; unsigned long more[3]; } attributes = { 0 };
	int priority = 0;

	IN_CHILD {
		TRY(sched_setscheduler, 0, 0, &priority);
		TRY(sched_setscheduler, 0, 3, &priority);
		TRY(sched_getscheduler, 0);
		TRY(sched_setscheduler, 0, 1, &priority);
		TRY(sched_setscheduler, 0, 4, &priority);
		TRY(sched_setscheduler, 0, 77, &priority);
		TRY(sched_setscheduler, 0, -1, &priority);
		TRY(sched_setscheduler, 0, 0, NULL);
		TRY(sched_setscheduler, 0, 0, BAD);
		TRY(sched_setscheduler, -1, 0, &priority);
		TRY(sched_setscheduler, 1 << 30, 0, &priority);
		priority = 100;
		TRY(sched_setscheduler, 0, 2, &priority);
		priority = 7;
		TRY(sched_setscheduler, 0, 0, &priority);
		TRY(sched_setscheduler, 0, 2 | 0x40000000, &priority);
		TRY(sched_getscheduler, 0);
		TRY(sched_getparam, 0, &priority);
		printf("%d\n", priority);
		if (!begin_child(__LINE__)) {
			TRY(sched_getscheduler, 0);
			TRY(sched_getparam, 0, &priority);
			printf("%d\n", priority);
			end_child(0);
		}
		TRY(sched_getattr, 0, &attributes, 56, 0);
		printf("%u %u %lx %d %u\n", attributes.size, attributes.policy, attributes.flags, attributes.nice, attributes.priority);
		priority = 9;
		TRY(sched_setparam, 0, &priority);
		TRY(sched_getscheduler, 0);
		TRY(sched_setparam, 0, NULL);
		TRY(sched_getparam, 0, NULL);
		TRY(sched_getparam, -1, &priority);
		TRY(sched_getparam, 0, BAD);
		TRY(sched_getparam, 1 << 30, &priority);
		TRY(sched_getscheduler, -1);
		TRY(sched_getscheduler, 1 << 30);
		TRY(sched_rr_get_interval, -1, NULL);
		TRY(sched_rr_get_interval, 1 << 30, NULL);
		TRY(sched_rr_get_interval, 0, BAD);
		priority = 0;
		become(NOBODY);
		TRY(sched_setscheduler, 0, 0, &priority); /* it would no longer be reset */
		TRY(sched_setscheduler, 0, 0x40000000, &priority);
		priority = 1;
		TRY(sched_setscheduler, 0, 1 | 0x40000000, &priority);
		TRY(sched_setscheduler, getppid(), 0, &priority);
	}
	IN_CHILD {
		memset(&attributes, 0, sizeof(attributes));
		TRY(sched_setattr, 0, NULL, 0);
		TRY(sched_setattr, 0, BAD, 0);
		TRY(sched_setattr, 0, &attributes, 1);
		TRY(sched_setattr, -1, &attributes, 0);
		TRY(sched_setattr, 1 << 30, &attributes, 0);
		attributes.nice = 12;
		TRY(sched_setattr, 0, &attributes, 0);
		CALL(getpriority(PRIO_PROCESS, 0));
		attributes.size = 40;
		TRY(sched_setattr, 0, &attributes, 0);
		printf("%u\n", attributes.size >= 56);
		attributes.size = 48, attributes.flags = 1 << 20;
		TRY(sched_setattr, 0, &attributes, 0);
		attributes.flags = 0, attributes.policy = 99;
		TRY(sched_setattr, 0, &attributes, 0);
		attributes.policy = -1;
		TRY(sched_setattr, 0, &attributes, 0);
		attributes.policy = 1;
		TRY(sched_setattr, 0, &attributes, 0);
		attributes.policy = 0, attributes.nice = 40;
		TRY(sched_setattr, 0, &attributes, 0);
		TRY(sched_getattr, 0, &attributes, 48, 0);
		printf("%u %u %lx %d %u\n", attributes.size, attributes.policy, attributes.flags, attributes.nice, attributes.priority);
		TRY(sched_getattr, 0, &attributes, 47, 0);
		TRY(sched_getattr, 0, &attributes, 4097, 0);
		TRY(sched_getattr, 0, &attributes, 48, 1);
		TRY(sched_getattr, 0, NULL, 48, 0);
		TRY(sched_getattr, 0, BAD, 48, 0);
		TRY(sched_getattr, -1, &attributes, 48, 0);
		TRY(sched_getattr, 1 << 30, &attributes, 48, 0);
		become(NOBODY);
		attributes.nice = 18;
		TRY(sched_setattr, 0, &attributes, 0);
	}
	IN_CHILD {
		TRY(ioprio_get, 1, 0);
		TRY(ioprio_set, 1, 0, 2 << 13 | 3);
		TRY(ioprio_get, 1, 0);
		TRY(ioprio_set, 1, 0, 1 << 13 | 3);
		TRY(ioprio_set, 1, 0, 3 << 13);
		TRY(ioprio_set, 1, 0, 5 << 13);
		TRY(ioprio_set, 1, 0, 3);
		TRY(ioprio_set, 4, 0, 0);
		TRY(ioprio_set, 1, 1 << 30, 0);
		TRY(ioprio_get, 0, 0);
		TRY(ioprio_get, 1, 1 << 30);
		setpgid(0, 0);
		TRY(ioprio_get, 2, 0);
		TRY(ioprio_set, 1, 0, 0);
		TRY(ioprio_get, 2, 0);
		CALL(setpriority(PRIO_PGRP, 0, 10));
		TRY(ioprio_get, 2, 0);
		CALL(getpriority(PRIO_PGRP, 0));
		CALL(getpriority(PRIO_PGRP, 1 << 30));
		CALL(getpriority(4, 0));
		CALL(setpriority(4, 0, 0));
		CALL(setpriority(PRIO_USER, 12345, 0));
		become(NOBODY);
		TRY(ioprio_set, 1, 0, 1 << 13 | 3);
		TRY(ioprio_set, 1, getppid(), 2 << 13 | 3);
		TRY(ioprio_set, 1, 0, 2 << 13 | 3);
	}
}

static void process_limit(void)
{
	IN_CHILD {
		struct rlimit limit = { 2, 2 };
		pid_t child;

		CALL(setrlimit(RLIMIT_NPROC, &limit));
		become(SOMEBODY);
		child = fork();
		if (!child) {
			CALL(fork());
			fflush(stdout);
			_exit(0);
		}
		waitpid(child, NULL, 0);
		CALL((child = fork()) > 0 ? waitpid(child, NULL, 0) != child : child ? -1 : (_exit(0), 0));
	}
}

static void sockets(void)
{
	struct ucred got;
	socklen_t size = sizeof(got);
	char control[CMSG_SPACE(sizeof(got))] = { 0 }, byte = 1;
	struct iovec vector = { &byte, 1 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	struct ucred *mine = (struct ucred *)CMSG_DATA(header);
	int pair[2];

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_CREDENTIALS;
	header->cmsg_len = CMSG_LEN(sizeof(*mine));
	IN_CHILD {
		TRY(setresgid, 11, 22, 33);
		TRY(setresuid, 1, 2, 3);
		CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &got, &size);
		printf("%u %u\n", got.uid, got.gid);
		*mine = (struct ucred){ getpid(), 3, 22 };
		CALL(sendmsg(pair[0], &message, 0));
		*mine = (struct ucred){ getpid(), 4, 11 };
		CALL(sendmsg(pair[0], &message, 0));
		*mine = (struct ucred){ getpid(), 1, 44 };
		CALL(sendmsg(pair[0], &message, 0));
		*mine = (struct ucred){ getppid(), 1, 11 };
		CALL(sendmsg(pair[0], &message, 0));
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "state")) {
		setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
		STATE();
		IDS();
		printf("secure %lu\n", getauxval(23));
		return 0;
	}
	if (enter_folder(argc, argv))
		return 1;
	chmod(".", 0755);
	setpriority(PRIO_PROCESS, 0, 0);
	users();
	groups();
	file_users();
	capabilities();
	keep();
	programs();
	files();
	others();
	policies();
	process_limit();
	sockets();
	return 42;
}
