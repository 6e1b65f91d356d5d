/* SPDX-License-Identifier: Apache-2.0 */
/* Processes as /proc shows them. */
#ifndef SENTRY_PROCESS_FILE_H
#define SENTRY_PROCESS_FILE_H

#include "../core.h"
#include "synthetic.h"

const struct synthetic *proc_file(const char *name); /* of /proc, not of a process; it is there */
const struct synthetic *process_file(const char *name);
/* The task that the files below a directory are about, or one of that process; NULL: it has ended. */
struct task *process_task(const struct synthetic_inode *node);
/* List directories with numbers as names, at cookies from `first` on; after() returns the next number, or 0. */
bool list_numbers(struct file *file, struct entries *entries, u64 first,
		  s32 (*after)(const struct synthetic_inode *node, s32 number));
s32 number_of(const char *text);
void synthetic_free(struct inode *inode); /* what an inode has for its content */
void process_prepare(struct synthetic_inode *node); /* more entries of a directory below a process */
void process_owner(struct inode *inode); /* who owns the files below a process */
const struct utsname *system_name(void); /* the caller's */
void system_set_hostname(struct space *names, const char *name); /* the first line, cut after 64 bytes */
void system_set_domainname(struct space *names, const char *name);
int open_process_memory(struct inode *inode, struct file *file); /* /proc/PID/mem */
void write_uid_map(struct text *text, struct synthetic_inode *node);
void write_gid_map(struct text *text, struct synthetic_inode *node);
void write_projid_map(struct text *text, struct synthetic_inode *node);
int jump_namespace(struct inode *inode, struct path *path);

#endif
