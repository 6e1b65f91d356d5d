// SPDX-License-Identifier: Apache-2.0
/* Makes each call that has a descriptor with each kind of file, and prints what it returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

#include "report.h"

static char buffer[4096];
static struct iovec vector = { buffer, 2 }, bad_vector = { BAD, 2 }, negative = { buffer, -1 };
static int pipe_in, pipe_out, other_file, epoll_other; /* another file for calls that have two */
static struct stat status;
static struct statfs file_system;
static struct sockaddr_un name = { AF_UNIX, "absent" };
static const struct sockaddr no_family, other_family = { .sa_family = 99 };
static struct epoll_event event = { .events = EPOLLIN };
static struct itimerspec spec = { { 0, 0 }, { 1000, 0 } }, wrong_spec = { { 0, 0 }, { 0, -1 } };
static unsigned long set = 1 << 9;
static struct flock lock = { F_RDLCK, SEEK_SET, 0, 1, 0 }, write_lock = { F_WRLCK, SEEK_SET, 0, 1, 0 };
static struct flock wrong_lock = { 99, 0, 0, 0, 0 };
static struct timespec no_time, wrong_time = { 0, -1 };
static socklen_t size = sizeof(buffer), negative_size = -1;
static int one = 1;
static long offset, offset_behind = 1 << 20, offset_negative = -1;
static const struct mmsghdr message_start = { { NULL, 0, &vector, 1, NULL, 0, 0 }, 0 };
static struct mmsghdr message, bad_message = { { NULL, 0, &bad_vector, 1, NULL, 0, 0 }, 0 };
static char *const arguments[] = { "program", NULL };

struct call {
	const char *text;
	long (*make)(int fd);
};

/* X(a name, the system call, its arguments with the descriptor fd). */
#define EACH_CALL(X)                                                                              \
	X(read_1, read, fd, buffer, 2)                                                            \
	X(read_bad, read, fd, BAD, 2)                                                             \
	X(pread_1, pread64, fd, buffer, 2, 0)                                                     \
	X(pread_bad, pread64, fd, BAD, 2, 0)                                                      \
	X(pread_negative, pread64, fd, buffer, 2, -1l)                                            \
	X(readv_1, readv, fd, &vector, 1)                                                         \
	X(readv_bad, readv, fd, &bad_vector, 1)                                                   \
	X(readv_negative, readv, fd, &negative, 1)                                                \
	X(preadv_1, preadv, fd, &vector, 1, 0, 0)                                                 \
	X(preadv_bad, preadv, fd, &bad_vector, 1, 0, 0)                                           \
	X(preadv_negative, preadv, fd, &vector, 1, -2l, -1l)                                      \
	X(preadv2_1, preadv2, fd, &vector, 1, 0, 0, 0)                                            \
	X(preadv2_here, preadv2, fd, &vector, 1, -1l, -1l, 0)                                     \
	X(preadv2_bad, preadv2, fd, &bad_vector, 1, 0, 0, 0)                                      \
	X(preadv2_flags, preadv2, fd, &vector, 1, 0, 0, 0x80000)                                  \
	X(preadv2_negative, preadv2, fd, &negative, 1, 0, 0, 0)                                   \
	X(write_1, write, fd, buffer, 8)                                                          \
	X(write_bad, write, fd, BAD, 8)                                                           \
	X(pwrite_1, pwrite64, fd, buffer, 2, 0)                                                   \
	X(pwrite_bad, pwrite64, fd, BAD, 2, 0)                                                    \
	X(pwrite_negative, pwrite64, fd, buffer, 2, -1l)                                          \
	X(writev_1, writev, fd, &vector, 1)                                                       \
	X(writev_bad, writev, fd, &bad_vector, 1)                                                 \
	X(writev_negative, writev, fd, &negative, 1)                                              \
	X(pwritev_1, pwritev, fd, &vector, 1, 0, 0)                                               \
	X(pwritev_bad, pwritev, fd, &bad_vector, 1, 0, 0)                                         \
	X(pwritev_negative, pwritev, fd, &vector, 1, -2l, -1l)                                    \
	X(pwritev2_1, pwritev2, fd, &vector, 1, 0, 0, 0)                                          \
	X(pwritev2_here, pwritev2, fd, &vector, 1, -1l, -1l, 0)                                   \
	X(pwritev2_bad, pwritev2, fd, &bad_vector, 1, 0, 0, 0)                                    \
	X(pwritev2_flags, pwritev2, fd, &vector, 1, 0, 0, 0x80000)                                \
	X(pwritev2_negative, pwritev2, fd, &negative, 1, 0, 0, 0)                                 \
	X(lseek_1, lseek, fd, 1, SEEK_SET)                                                        \
	X(lseek_end, lseek, fd, 0, SEEK_END)                                                      \
	X(lseek_negative, lseek, fd, -1l, SEEK_SET)                                               \
	X(lseek_data, lseek, fd, 1l << 40, SEEK_DATA)                                             \
	X(lseek_whence, lseek, fd, 0, 9)                                                          \
	X(fstat_1, fstat, fd, &status)                                                            \
	X(fstatfs_1, fstatfs, fd, &file_system)                                                   \
	X(fstatfs_bad, fstatfs, fd, BAD)                                                          \
	X(fchmod_1, fchmod, fd, 0666)                                                             \
	X(fchown_1, fchown, fd, -1, -1)                                                           \
	X(ftruncate_1, ftruncate, fd, 100)                                                        \
	X(ftruncate_negative, ftruncate, fd, -1l)                                                 \
	X(fallocate_1, fallocate, fd, 0, 0, 10)                                                   \
	X(fallocate_mode, fallocate, fd, 0x1000, 0, 10)                                           \
	X(fallocate_nothing, fallocate, fd, 0, 0, 0)                                              \
	X(fallocate_huge, fallocate, fd, 0, 1l << 62, 1l << 62)                                   \
	X(fsync_1, fsync, fd)                                                                     \
	X(fdatasync_1, fdatasync, fd)                                                             \
	X(syncfs_1, syncfs, fd)                                                                   \
	X(sync_file_range_1, sync_file_range, fd, 0, 0, 2)                                        \
	X(sync_file_range_flags, sync_file_range, fd, 0, 0, 8)                                    \
	X(fadvise_1, fadvise64, fd, 0, 0, 0)                                                      \
	X(fadvise_advice, fadvise64, fd, 0, 0, 9)                                                 \
	X(readahead_1, readahead, fd, 0, 10)                                                      \
	X(getdents_1, getdents, fd, buffer, 4096)                                                 \
	X(getdents64_1, getdents64, fd, buffer, 1)                                                \
	X(fchdir_1, fchdir, fd)                                                                   \
	X(fsetxattr_1, fsetxattr, fd, "trusted.new", "value", 5, 0)                               \
	X(fsetxattr_user, fsetxattr, fd, "user.new", "value", 5, 0)                               \
	X(fsetxattr_create, fsetxattr, fd, "trusted.new", "value", 5, 1)                          \
	X(fsetxattr_replace, fsetxattr, fd, "trusted.absent", "value", 5, 2)                      \
	X(fsetxattr_other, fsetxattr, fd, "other.new", "value", 5, 0)                             \
	X(fgetxattr_1, fgetxattr, fd, "trusted.new", buffer, 100)                                 \
	X(fgetxattr_small, fgetxattr, fd, "trusted.new", buffer, 1)                               \
	X(fgetxattr_bad, fgetxattr, fd, "trusted.new", BAD, 100)                                  \
	X(fgetxattr_other, fgetxattr, fd, "other.new", buffer, 100)                               \
	X(flistxattr_1, flistxattr, fd, buffer, 100)                                              \
	X(flistxattr_small, flistxattr, fd, buffer, 1)                                            \
	X(flistxattr_bad, flistxattr, fd, BAD, 100)                                               \
	X(fremovexattr_1, fremovexattr, fd, "trusted.new")                                        \
	X(fremovexattr_other, fremovexattr, fd, "other.new")                                      \
	X(flock_1, flock, fd, 1 | 4)                                                              \
	X(flock_operation, flock, fd, 77)                                                         \
	X(getfd, fcntl, fd, F_GETFD)                                                              \
	X(getfl, fcntl, fd, F_GETFL)                                                              \
	X(setfl, fcntl, fd, F_SETFL, O_NONBLOCK | O_APPEND)                                       \
	X(dupfd, fcntl, fd, F_DUPFD, 1 << 30)                                                     \
	X(getlk, fcntl, fd, F_GETLK, &lock)                                                       \
	X(setlk, fcntl, fd, F_SETLK, &lock)                                                       \
	X(setlk_write, fcntl, fd, F_SETLK, &write_lock)                                           \
	X(setlk_wrong, fcntl, fd, F_SETLK, &wrong_lock)                                           \
	X(setlk_bad, fcntl, fd, F_SETLK, BAD)                                                     \
	X(getown, fcntl, fd, F_GETOWN)                                                            \
	X(setown, fcntl, fd, F_SETOWN, 0)                                                         \
	X(setsig, fcntl, fd, F_SETSIG, 99)                                                        \
	X(pipe_size, fcntl, fd, F_GETPIPE_SZ)                                                     \
	X(set_pipe_size, fcntl, fd, F_SETPIPE_SZ, (1u << 31) + 1)                                 \
	X(seals, fcntl, fd, F_GET_SEALS)                                                          \
	X(add_seals, fcntl, fd, F_ADD_SEALS, F_SEAL_GROW)                                         \
	X(fionread, ioctl, fd, FIONREAD, buffer)                                                  \
	X(fionread_bad, ioctl, fd, FIONREAD, BAD)                                                 \
	X(fionbio_bad, ioctl, fd, FIONBIO, BAD)                                                   \
	X(fioclex, ioctl, fd, FIOCLEX, 0)                                                         \
	X(tcgets, ioctl, fd, 0x5401, buffer)                                                      \
	X(ioctl_other, ioctl, fd, 0x12345678, buffer)                                             \
	X(dup_1, dup, fd)                                                                         \
	X(dup2_1, dup2, fd, 200)                                                                  \
	X(dup3_1, dup3, fd, 200, 0)                                                               \
	X(dup3_flags, dup3, fd, 200, 1)                                                           \
	X(dup3_same, dup3, fd, fd, 0)                                                             \
	X(sendfile_from, sendfile, pipe_in, fd, NULL, 2)                                          \
	X(sendfile_to, sendfile, fd, other_file, &offset, 2)                                      \
	X(sendfile_offset, sendfile, pipe_in, fd, &offset, 2)                                     \
	X(sendfile_negative, sendfile, pipe_in, fd, &offset_negative, 2)                          \
	X(sendfile_bad, sendfile, pipe_in, fd, BAD, 2)                                            \
	X(splice_from, splice, fd, NULL, pipe_in, NULL, 2, 2)                                     \
	X(splice_from_offset, splice, fd, &offset, pipe_in, NULL, 2, 2)                           \
	X(splice_to, splice, pipe_out, NULL, fd, NULL, 2, 2)                                      \
	X(splice_to_offset, splice, pipe_out, NULL, fd, &offset, 2, 2)                            \
	X(splice_flags, splice, fd, NULL, pipe_in, NULL, 2, 0x100)                                \
	X(splice_bad, splice, fd, BAD, pipe_in, NULL, 2, 2)                                       \
	X(tee_from, tee, fd, pipe_in, 2, 2)                                                       \
	X(tee_to, tee, pipe_out, fd, 2, 2)                                                        \
	X(tee_flags, tee, fd, pipe_in, 2, 0x100)                                                  \
	X(vmsplice_1, vmsplice, fd, &vector, 1, 2)                                                \
	X(vmsplice_bad, vmsplice, fd, &bad_vector, 1, 2)                                          \
	X(vmsplice_vectors, vmsplice, fd, BAD, 1, 2)                                              \
	X(vmsplice_flags, vmsplice, fd, &vector, 1, 0x100)                                        \
	X(vmsplice_count, vmsplice, fd, &vector, 2000, 2)                                         \
	X(copy_from, copy_file_range, fd, NULL, other_file, NULL, 2, 0)                           \
	X(copy_to, copy_file_range, other_file, NULL, fd, NULL, 2, 0)                             \
	X(copy_flags, copy_file_range, other_file, NULL, fd, NULL, 2, 1)                          \
	X(copy_bad, copy_file_range, other_file, BAD, fd, NULL, 2, 0)                             \
	X(copy_overflow, copy_file_range, other_file, &offset, fd, &offset_behind, -1l, 0)        \
	X(connect_1, connect, fd, &name, sizeof(name))                                            \
	X(connect_bad, connect, fd, BAD, sizeof(name))                                            \
	X(connect_size, connect, fd, &name, 1)                                                    \
	X(connect_none, connect, fd, &no_family, 16)                                             \
	X(connect_other, connect, fd, &other_family, 16)                                          \
	X(accept_1, accept, fd, NULL, NULL)                                                       \
	X(accept4_1, accept4, fd, NULL, NULL, 0)                                                  \
	X(accept4_flags, accept4, fd, NULL, NULL, 1)                                              \
	X(bind_1, bind, fd, &name, 1)                                                             \
	X(bind_bad, bind, fd, BAD, 8)                                                             \
	X(bind_other, bind, fd, &other_family, 16)                                                \
	X(listen_1, listen, fd, 1)                                                                \
	X(getsockname_1, getsockname, fd, buffer, &size)                                          \
	X(getsockname_bad, getsockname, fd, buffer, BAD)                                          \
	X(getsockname_size, getsockname, fd, buffer, &negative_size)                              \
	X(getpeername_1, getpeername, fd, buffer, &size)                                          \
	X(getpeername_bad, getpeername, fd, buffer, BAD)                                          \
	X(getpeername_size, getpeername, fd, buffer, &negative_size)                              \
	X(getsockopt_1, getsockopt, fd, SOL_SOCKET, SO_TYPE, buffer, &size)                       \
	X(getsockopt_bad, getsockopt, fd, SOL_SOCKET, SO_TYPE, BAD, &size)                        \
	X(getsockopt_size, getsockopt, fd, SOL_SOCKET, SO_TYPE, buffer, &negative_size)           \
	X(getsockopt_other, getsockopt, fd, SOL_SOCKET, 9999, buffer, &size)                      \
	X(getsockopt_level, getsockopt, fd, 9999, 1, buffer, &size)                               \
	X(setsockopt_1, setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &one, 4)                        \
	X(setsockopt_bad, setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, BAD, 4)                       \
	X(setsockopt_size, setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &one, 1)                     \
	X(setsockopt_other, setsockopt, fd, SOL_SOCKET, 9999, &one, 4)                            \
	X(setsockopt_level, setsockopt, fd, 9999, 1, &one, 4)                                     \
	X(sendto_1, sendto, fd, buffer, 2, 0, NULL, 0)                                            \
	X(sendto_bad, sendto, fd, BAD, 2, 0, NULL, 0)                                             \
	X(sendto_name, sendto, fd, buffer, 2, 0, &name, sizeof(name))                             \
	X(sendto_bad_name, sendto, fd, buffer, 2, 0, BAD, sizeof(name))                           \
	X(sendto_large, sendto, fd, buffer, 1 << 30, 0, NULL, 0)                                  \
	X(sendmsg_1, sendmsg, fd, &message.msg_hdr, 0)                                            \
	X(sendmsg_bad, sendmsg, fd, BAD, 0)                                                       \
	X(sendmsg_vector, sendmsg, fd, &bad_message.msg_hdr, 0)                                   \
	X(sendmmsg_1, sendmmsg, fd, &message, 1, 0)                                               \
	X(sendmmsg_bad, sendmmsg, fd, BAD, 1, 0)                                                  \
	X(recvfrom_1, recvfrom, fd, buffer, 2, 0, NULL, NULL)                                     \
	X(recvfrom_bad, recvfrom, fd, BAD, 2, 0, NULL, NULL)                                      \
	X(recvfrom_queue, recvfrom, fd, buffer, 2, MSG_ERRQUEUE, NULL, NULL)                      \
	X(recvmsg_1, recvmsg, fd, &message.msg_hdr, 0)                                            \
	X(recvmsg_bad, recvmsg, fd, BAD, 0)                                                       \
	X(recvmmsg_1, recvmmsg, fd, &message, 1, 0, NULL)                                         \
	X(recvmmsg_bad, recvmmsg, fd, BAD, 1, 0, NULL)                                            \
	X(recvmmsg_time, recvmmsg, fd, &message, 1, 0, &wrong_time)                               \
	X(recvmmsg_bad_time, recvmmsg, fd, &message, 1, 0, BAD)                                   \
	X(epoll_add, epoll_ctl, epoll_other, EPOLL_CTL_ADD, fd, &event)                           \
	X(epoll_add_again, epoll_ctl, epoll_other, EPOLL_CTL_ADD, fd, &event)                     \
	X(epoll_modify, epoll_ctl, epoll_other, EPOLL_CTL_MOD, fd, &event)                        \
	X(epoll_bad, epoll_ctl, epoll_other, EPOLL_CTL_MOD, fd, BAD)                              \
	X(epoll_in, epoll_ctl, fd, EPOLL_CTL_ADD, pipe_out, &event)                               \
	X(epoll_wait_1, epoll_wait, fd, buffer, 1, 0)                                             \
	X(epoll_wait_none, epoll_wait, fd, buffer, 0, 0)                                          \
	X(epoll_pwait_1, epoll_pwait, fd, buffer, 1, 0, NULL, 8)                                  \
	X(epoll_pwait_bad, epoll_pwait, fd, BAD, 1, 0, NULL, 8)                                   \
	X(epoll_pwait_set, epoll_pwait, fd, buffer, 1, 0, &set, 7)                                \
	X(epoll_pwait_bad_set, epoll_pwait, fd, buffer, 1, 0, BAD, 8)                             \
	X(epoll_pwait2_1, epoll_pwait2, fd, buffer, 1, &no_time, NULL, 8)                         \
	X(epoll_pwait2_time, epoll_pwait2, fd, buffer, 1, &wrong_time, NULL, 8)                   \
	X(epoll_pwait2_bad, epoll_pwait2, fd, buffer, 1, BAD, NULL, 8)                            \
	X(timerfd_settime_1, timerfd_settime, fd, 0, &spec, NULL)                                 \
	X(timerfd_settime_wrong, timerfd_settime, fd, 0, &wrong_spec, NULL)                       \
	X(timerfd_settime_flags, timerfd_settime, fd, 77, &spec, NULL)                            \
	X(timerfd_gettime_1, timerfd_gettime, fd, buffer)                                         \
	X(signalfd_1, signalfd, fd, &set, 8)                                                      \
	X(signalfd_size, signalfd, fd, &set, 7)                                                   \
	X(signalfd_bad, signalfd, fd, BAD, 8)                                                     \
	X(signalfd4_1, signalfd4, fd, &set, 8, 0)                                                 \
	X(watch, inotify_add_watch, fd, ".", 0x100)                                               \
	X(rm_watch, inotify_rm_watch, fd, 99)                                                     \
	X(mq_send, mq_timedsend, fd, buffer, 1, 0, &no_time)                                      \
	X(mq_receive, mq_timedreceive, fd, buffer, 9000, NULL, &no_time)                          \
	X(mq_attributes, mq_getsetattr, fd, NULL, buffer)                                         \
	X(mq_note, mq_notify, fd, NULL)                                                           \
	X(utimensat_1, utimensat, fd, NULL, NULL, 0)                                              \
	X(openat_1, openat, fd, "absent", O_RDONLY)                                               \
	X(newfstatat_1, newfstatat, fd, "", &status, AT_EMPTY_PATH)                               \
	X(fchownat_1, fchownat, fd, "", -1, -1, AT_EMPTY_PATH)                                    \
	X(linkat_1, linkat, fd, "", AT_FDCWD, "made", AT_EMPTY_PATH)                              \
	X(readlinkat_1, readlinkat, fd, "", buffer, 100)                                          \
	X(execveat_1, execveat, fd, "", arguments, NULL, AT_EMPTY_PATH)                           \
	X(setns_1, setns, fd, 0)                                                                  \
	X(pidfd_signal, pidfd_send_signal, fd, 0, NULL, 0)                                        \
	X(pidfd_get, pidfd_getfd, fd, 0, 0)                                                       \
	X(mmap_shared, mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)               \
	X(mmap_private, mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0)                          \
	X(mmap_offset, mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 5)                           \
	X(close_1, close, fd)                                                                     \
	X(close_again, close, fd)

#define FUNCTION(what, name, ...)                        \
	static long what(int fd)                         \
	{                                                \
		(void)fd;                                \
		return syscall(SYS_##name, __VA_ARGS__); \
	}
#define ROW(what, name, ...) { #what, what },

EACH_CALL(FUNCTION)
static const struct call calls[] = { EACH_CALL(ROW) };

static int sealed_memory(void)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING);

	ftruncate(fd, 10);
	fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	return fd;
}

static int pipe_end(int which, int closed)
{
	int fds[2];

	pipe2(fds, O_NONBLOCK);
	write(fds[1], "text in the pipe", 16);
	if (closed)
		close(fds[!which]);
	return fds[which];
}

static int pair_end(int type, int closed)
{
	int fds[2];

	socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fds);
	if (closed)
		close(fds[1]);
	else
		write(fds[1], "text", 4);
	return fds[0];
}

static int listener(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	bind(fd, (struct sockaddr *)&name, 2); /* it gets a name of the kernel's choice */
	listen(fd, 1);
	return fd;
}

static int inet_listener(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in any = { AF_INET, 0, { htonl(INADDR_LOOPBACK) }, { 0 } };

	bind(fd, (struct sockaddr *)&any, sizeof(any));
	listen(fd, 1);
	return fd;
}

static int inet_pair(int closed)
{
	int from = inet_listener(), fd = socket(AF_INET, SOCK_STREAM, 0), peer;
	struct sockaddr_in any;
	struct pollfd ready = { from, POLLIN, 0 };
	socklen_t length = sizeof(any);

	getsockname(from, (struct sockaddr *)&any, &length);
	connect(fd, (struct sockaddr *)&any, sizeof(any));
	poll(&ready, 1, -1);
	peer = accept(from, NULL, NULL);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	close(from);
	if (closed) {
		ready = (struct pollfd){ fd, POLLIN, 0 };
		close(peer);
		poll(&ready, 1, -1);
	}
	return fd;
}

static int timer(void)
{
	return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
}

static int signals(void)
{
	return signalfd(-1, (sigset_t[]){ { { 1 << 9 } } }, SFD_NONBLOCK);
}

#define EACH_KIND(X)                                                     \
	X("none", 99)                                                    \
	X("negative", -1)                                                \
	X("file", open("file", O_RDWR))                                  \
	X("read-only", open("file", O_RDONLY))                           \
	X("write-only", open("file", O_WRONLY))                          \
	X("append", open("file", O_RDWR | O_APPEND))                     \
	X("path", open("file", O_PATH))                                  \
	X("directory", open("dir", O_RDONLY))                            \
	X("null", open("/dev/null", O_RDWR))                             \
	X("zero", open("/dev/zero", O_RDWR))                             \
	X("fifo", open("fifo", O_RDWR | O_NONBLOCK))                     \
	X("pipe reader", pipe_end(0, 0))                                 \
	X("pipe writer", pipe_end(1, 0))                                 \
	X("pipe without writer", pipe_end(0, 1))                         \
	X("pipe without reader", pipe_end(1, 1))                         \
	X("unix stream", socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)) \
	X("unix datagrams", socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0)) \
	X("unix pair", pair_end(SOCK_STREAM, 0))                         \
	X("unix pair closed", pair_end(SOCK_STREAM, 1))                  \
	X("unix packets closed", pair_end(SOCK_SEQPACKET, 1))            \
	X("unix datagrams closed", pair_end(SOCK_DGRAM, 1))              \
	X("unix listener", listener())                                   \
	X("tcp", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0))        \
	X("tcp pair", inet_pair(0))                                      \
	X("tcp pair closed", inet_pair(1))                               \
	X("tcp listener", inet_listener())                               \
	X("udp", socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0))         \
	X("eventfd", eventfd(0, EFD_NONBLOCK))                           \
	X("epoll", epoll_create1(0))                                     \
	X("timerfd", timer())                                            \
	X("signalfd", signals())                                         \
	X("inotify", inotify_init1(IN_NONBLOCK))                         \
	X("memory", memfd_create("memory", 0))                           \
	X("sealed", sealed_memory())                                     \
	X("pidfd", (int)syscall(SYS_pidfd_open, getpid(), 0))            \
	X("namespace", open("/proc/self/ns/uts", O_RDONLY))

/* What differs between versions of Linux, or is not there in the sandbox. */
static int is_left_out(const char *call, const char *kind)
{
	static const struct {
		const char *calls, *kinds, *reason;
	} all[] = {
		{ "fchmod fchown_ utimensat fchownat", "eventfd epoll timerfd signalfd inotify pidfd", "refused since 6.16" },
		{ "write_bad writev_bad sendto_bad sendto_large sendmsg_vector", "unix datagrams", "copied before the name since 6.14" },
		{ "ftruncate fallocate sync_file_range fsetxattr fgetxattr flistxattr fremovexattr copy_", "pidfd", "a file since 6.9" },
		{ "fsetxattr fgetxattr flistxattr fremovexattr", "namespace", "unchangeable" },
		{ "flistxattr", "unix stream datagrams pair closed packets listener tcp udp", "attributes of sockets" },
		{ "sendto_large", "unix stream tcp pair", "a part is sent" },
		{ "epoll_wait_none", "none negative path", "checked last since 6.15" },
		{ "setns", "namespace path", "there are none" },
		{ "mmap", "tcp", "there are no mappings of streams" },
	};
	char first[40];

	snprintf(first, sizeof(first), "%.*s", (int)strcspn(kind, " "), kind);
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		char copy[200], *rest = strcpy(copy, all[i].calls), *prefix;

		while ((prefix = strsep(&rest, " ")))
			if (!strncmp(call, prefix, strlen(prefix)) && strstr(all[i].kinds, first))
				return 1;
	}
	return 0;
}

/* Make the call with a new descriptor of the kind; the same number in all. */
static void try_kind(const struct call *call, const char *kind, int fd)
{
	long result;

	if (fd >= 0 && fd != 99) {
		dup2(fd, 100);
		close(fd);
		fd = 100;
	}
	if (is_left_out(call->text, kind))
		return;
	message = message_start;
	size = sizeof(buffer);
	offset = 0;
	result = call->make(fd);
	if (result == -1)
		printf("%s %s: %s\n", call->text, kind, strerrorname_np(errno));
	else
		printf("%s %s = %ld\n", call->text, kind, strncmp(call->text, "mmap", 4) ? result : 0);
	if (fd == 100)
		close(fd);
}

#define TRY_KIND(kind, fd) try_kind(call, kind, fd);

static void try_call(const struct call *call)
{
	pid_t child;
	int fds[2];

	fflush(stdout);
	child = fork();
	if (child) {
		waitpid(child, NULL, 0);
		return;
	}
	other_file = open("other", O_CREAT | O_RDWR | O_TRUNC, 0644);
	pwrite(other_file, "other text", 10, 0);
	pwrite(open("file", O_CREAT | O_RDWR | O_TRUNC, 0644), "some text", 9, 0);
	pipe2(fds, O_NONBLOCK);
	pipe_out = fds[0];
	pipe_in = fds[1];
	write(pipe_in, "in the other pipe", 17);
	epoll_other = epoll_create1(0);
	EACH_KIND(TRY_KIND)
	fflush(stdout);
	_exit(0);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	signal(SIGPIPE, SIG_IGN);
	mkdir("dir", 0755);
	mkfifo("fifo", 0644);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		try_call(&calls[i]);
	return 42;
}
