/* SPDX-License-Identifier: Apache-2.0 */
/* Files, names and log messages: helpers for all parts of the agent. */
#ifndef AGENT_UTIL_H
#define AGENT_UTIL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define __printf(f, a) __attribute__((format(printf, f, a)))

/* The mount point of the share, as in Kata. */
#define SHARE_DIR "/run/kata-containers/shared/containers"
/* Tests use other paths. */
#ifndef AGENT_DIR
/* All files of the agent are below it, on a tmpfs. */
#define AGENT_DIR "/run/pyvmm-agent"
#define CGROUP_DIR "/sys/fs/cgroup"
#define CRUN "/usr/bin/crun"
#define PROC_SYS "/proc/sys"
/* The path that containers may mount; GUEST_GENERATION of pyvmm_kata has the same. */
#define GENERATION_FILE "/run/kata-containers/sandbox/generation"
#endif

/*
 * Write a line to the machine's log: to vsock port 1025 of the host if it has a listener, otherwise to the console.
 */
void log_line(const char *format, ...) __printf(1, 2);
/*
 * With agent.log=debug on the kernel's command line, log the time from the start of process 1 to the host's
 * connection.
 */
void log_began(void);
void log_connected(void);
void log_start(void);

/* Allocation: process 1 cannot continue without memory, so these never return NULL. */
void *xzalloc(size_t size);
char *xstrdup(const char *text);
char *xasprintf(const char *format, ...) __printf(1, 2);

/* An id of a container or a process, which is the name of files: 1 to 255 of [A-Za-z0-9_+.-], not "." or "..", and the
 * first not "-", for crun's command line. check_id() of pyvmm_kata has the same rule. */
bool id_is_valid(const char *id);
/* An absolute path without empty, "." and ".." components, shorter than PATH_MAX; a slash at its end is as good. */
bool path_is_valid(const char *path);
/* NULL counts as an empty string. */
static inline const char *text_of(const char *text)
{
	return text ? text : "";
}

/* Read at most size - 1 bytes of a file as a string; the length or -errno. */
ssize_t file_read(const char *path, char *buffer, size_t size);
/* Read the number at the start of a file, UINT64_MAX for "max"; 0 or -errno (-EINVAL: no number). */
int file_read_number(const char *path, uint64_t *number);
/* Write all of `size` bytes to an existing file; 0 or -errno. */
int file_write(const char *path, const char *data, size_t size);
int file_print(const char *path, const char *format, ...) __printf(2, 3);
/* Create or truncate a file, and write to it; 0 or -errno. */
int file_create(const char *path, const char *data, size_t size, mode_t mode);
int file_write_all(int fd, const void *data, size_t size);
/* Create the directory and its parents; 0 or -errno. */
int directory_make(const char *path, mode_t mode);
/* Remove a directory of the agent with its files, one level deep. */
void directory_remove(const char *path);

#endif
