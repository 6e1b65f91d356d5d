/* SPDX-License-Identifier: Apache-2.0 */
/* File systems whose files the core writes when they are read: /proc and /sys. */
#ifndef SENTRY_SYNTHETIC_H
#define SENTRY_SYNTHETIC_H

#include "text.h"
#include "vfs.h"

struct synthetic_inode;

/* A file, by its whole name in the file system (or below a process). Directories follow from the names. */
struct synthetic {
	const char *name;
	void (*write)(struct text *text, struct synthetic_inode *inode);
	const char *fixed;  /* the content, where there is no function */
	const char *target; /* of a link */
	int (*jump)(struct inode *inode, struct path *path); /* of a link to an object */
	int (*open)(struct inode *inode, struct file *file); /* it has operations of its own */
	u32 mode;	    /* permissions; 0: as usual */
	s64 (*store)(struct synthetic_inode *inode, const char *data, u64 size); /* accept a write; NULL: -EIO */
};

struct synthetic_inode {
	const struct synthetic *table; /* of a directory */
	u32 count;
	const struct synthetic *entry; /* of a file or link */
	const char *prefix; /* of a directory: the names of its entries start so */
	u64 prefix_size;
	u32 pids; /* the namespace of processes that a /proc shows */
	s32 pid; /* of a file below a process; 0: of none */
	u32 number; /* of a descriptor */
	/* More entries of a directory. */
	int (*lookup)(struct inode *directory, struct dentry *dentry);
	bool (*list)(struct file *file, struct entries *entries); /* from the cookie `count + 3` on; false: no room */
	bool (*valid)(struct inode *inode); /* whether it still exists */
};

struct super *synthetic_new(const char *type, u64 magic, const struct synthetic *table, u32 count);
struct synthetic_inode *synthetic_of(const struct inode *inode);
/* A directory, file or link; `like` gives the process. */
struct inode *synthetic_inode(struct super *super, const struct synthetic_inode *like, const struct synthetic *entry, u32 mode);
struct super *proc_new(u32 pids); /* with the processes of a namespace */
struct super *sys_new(void);
void sys_forget(void); /* later mounts show other interfaces */
struct super *cgroup_new(void); /* control/cgroup.c */
extern const struct synthetic process_files[];
extern const u32 process_file_count;

#endif
