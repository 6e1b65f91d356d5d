/* SPDX-License-Identifier: Apache-2.0 */
/* What root and others of a user namespace may do with users, groups and files. Runs in a folder with files of each kind. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "report.h"

enum { ROOT = 0, USER = 5, LAST = 999, OUTSIDE = 1000 };

static void show_owner(int line, const char *name)
{
	struct stat status;

	if (lstat(name, &status))
		printf("%d   %s: %s\n", line, name, strerrorname_np(errno));
	else
		printf("%d   %s: %u %u %o\n", line, name, status.st_uid, status.st_gid, status.st_mode);
}

#define OWNER(name) show_owner(__LINE__, name)

static void show_file(const char *name)
{
	char text[512];
	int fd = open(name, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	printf("%s: %.*s", name, size > 0 ? (int)size : 0, text);
	close(fd);
}

static void maps(void)
{
	show_file("/proc/self/uid_map");
	show_file("/proc/self/gid_map");
	show_file("/proc/self/projid_map");
	show_file("/proc/self/setgroups");
}

static void users(void)
{
	gid_t groups[] = { 3, 2, OUTSIDE };

	IN_CHILD {
		TRY(setuid, OUTSIDE);
		TRY(setgid, OUTSIDE);
		TRY(setreuid, -1, OUTSIDE);
		TRY(setregid, OUTSIDE, -1);
		TRY(setresuid, -1, -1, OUTSIDE);
		TRY(setresgid, -1, OUTSIDE, -1);
		TRY(setfsuid, OUTSIDE);
		TRY(setfsuid, -1);
		TRY(setfsgid, OUTSIDE);
		TRY(setfsgid, -1);
		TRY(setgroups, 3, groups);
		TRY(setgroups, 2, groups);
		TRY(setgid, LAST);
		TRY(setuid, LAST);
		TRY(getuid);
		TRY(getgid);
		TRY(setuid, OUTSIDE);
		TRY(setuid, ROOT);
		TRY(setreuid, OUTSIDE, -1);
	}
}

/* Of each owner: root of the namespace, another user of it, and two who are not in it. */
static void files(const char *name)
{
	int fd;

	printf("-- %s\n", name);
	OWNER(name);
	CALL(fd = open(name, O_RDONLY) < 0 ? -1 : 0);
	CALL(fd = open(name, O_WRONLY) < 0 ? -1 : 0);
	(void)fd;
	CALL(access(name, R_OK));
	CALL(chmod(name, 0640));
	OWNER(name);
	CALL(chmod(name, 06750));
	OWNER(name);
	CALL(utimensat(AT_FDCWD, name, NULL, 0));
	CALL(chown(name, -1, -1));
	CALL(chown(name, USER, -1));
	CALL(chown(name, -1, USER));
	OWNER(name);
	CALL(chown(name, OUTSIDE, -1));
	CALL(chown(name, -1, OUTSIDE));
	CALL(truncate(name, 1));
	CALL(setxattr(name, "trusted.one", "1", 1, 0));
	CALL(setxattr(name, "user.one", "1", 1, 0));
	CALL(link(name, "second"));
	CALL(unlink("second"));
	OWNER(name);
}

static void folders(void)
{
	CALL(mkdir("of-root/new", 0755));
	CALL(mkdir("of-user/new", 0755));
	CALL(mkdir("of-host/new", 0755));
	OWNER("of-root/new");
	OWNER("of-user/new");
	OWNER("of-host/open"); /* everybody may write to it; it is sticky, and its file belongs to root of the host */
	CALL(mkdir("of-host/open/new", 0755));
	CALL(unlink("of-host/open/file"));
	CALL(rename("of-host/open/file", "of-host/open/other"));
	CALL(rmdir("of-host/open/new"));
	CALL(mknod("of-root/null", S_IFCHR | 0666, makedev(1, 3)));
	CALL(mknod("of-root/fifo", S_IFIFO | 0666, 0));
	OWNER("of-root/fifo");
	IN_CHILD {
		CALL(setgroups(0, NULL));
		CALL(setgid(USER));
		CALL(setuid(USER));
		CALL(mkdir("of-user/mine", 0750));
		OWNER("of-user/mine");
		CALL(mkdir("of-root/mine", 0750));
		CALL(open("of-user/file", O_WRONLY | O_CREAT, 0644) < 0 ? -1 : 0);
		OWNER("of-user/file");
		CALL(chown("of-user/file", OUTSIDE, -1));
		CALL(chown("of-user/file", ROOT, -1));
	}
}

static void others(void)
{
	struct rlimit limit = { 0 };
	struct ucred sender = { getpid(), OUTSIDE, ROOT };
	char data = 0, control[CMSG_SPACE(sizeof(sender))] = { 0 };
	struct iovec part = { &data, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int pair[2];

	getrlimit(RLIMIT_CORE, &limit);
	limit.rlim_max = limit.rlim_cur = 4096;
	CALL(setrlimit(RLIMIT_CORE, &limit));
	limit.rlim_max = 8192;
	CALL(setrlimit(RLIMIT_CORE, &limit));
	CALL(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	*header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(sender)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS };
	memcpy(CMSG_DATA(header), &sender, sizeof(sender));
	CALL(sendmsg(pair[0], &message, 0));
	sender.uid = LAST;
	memcpy(CMSG_DATA(header), &sender, sizeof(sender));
	CALL(sendmsg(pair[0], &message, 0));
}

/* Copies of this program, whose owners are another user, and one who is not in the namespace. */
static void programs(const char *name)
{
	IN_CHILD {
		CALL(setuid(LAST));
		fflush(stdout);
		execl(name, name, "ids", (char *)NULL);
		CALL(-1);
	}
}

int main(int argc, char **argv)
{
	(void)argv;
	umask(022);
	if (argc > 1) {
		TRY(getuid);
		TRY(geteuid);
		return 0;
	}
	maps();
	users();
	files("root");
	files("user");
	files("host");
	files("half"); /* of root, and of a group that is not in the namespace */
	folders();
	others();
	programs("./as-user");
	programs("./as-host");
	return 0;
}
