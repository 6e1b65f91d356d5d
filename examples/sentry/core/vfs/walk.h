/* SPDX-License-Identifier: Apache-2.0 */
/* The way from a name to a file. */
#ifndef SENTRY_WALK_H
#define SENTRY_WALK_H

#include "vfs.h"

enum { MAX_LINKS = 40 };
enum {
	RESOLVE_NO_XDEV = 1, RESOLVE_NO_MAGICLINKS = 2, RESOLVE_NO_SYMLINKS = 4, RESOLVE_BENEATH = 8, RESOLVE_IN_ROOT = 16,
	RESOLVE_CACHED = 32, RESOLVE_ALL = 63,
};

enum last { LAST_NAME, LAST_DOT, LAST_DOTDOT, LAST_ROOT };

struct walk {
	struct path at, root;
	u32 flags, resolve, links, depth;
	const char *outer[MAX_LINKS + 1]; /* the rest of the name behind each link that the walk is in */
	/* The last component, with WALK_PARENT. */
	enum last kind;
	const char *last;
	u64 last_size;
	bool slash; /* follows it */
	char *page; /* the name's memory, if it is the walk's */
	u32 pages;
	char *kept[MAX_LINKS + 1]; /* targets that `last` or a rest may lie in */
};

/* From a name of the program's: 0 or -errno. walk_end() in any case. */
int walk_user(struct walk *w, struct task *t, u64 directory, u64 name, u32 flags, u32 resolve);
/* From a name of the core's, relative to the caller's directory. */
int walk_core(struct walk *w, const char *name, u32 flags);
/* Continue with a link that lies in w->at, with WALK_PARENT. */
int walk_follow(struct walk *w, struct dentry *link);
/*
 * After a walk with WALK_PARENT, the place of a new name: 0 with its directory locked and a dentry without an inode.
 * next: nothing else can fail before the file system makes it. Then it may exist nevertheless, which that will find.
 */
int walk_new(struct walk *w, bool next, struct dentry **dentry);
/* The dentry for that; it may have an inode. */
int walk_place(struct walk *w, struct dentry **dentry);
void walk_end(struct walk *w);
/* A name in a directory, which may have no inode: *result is a reference. With WALK_PARENT: of w->last. */
int dentry_lookup(struct dentry *directory, const char *name, u64 size, struct dentry **result);

/* Copy a name of the program's into a page; walk_end() frees it. */
int name_get(u64 from, char **page);
/* One walk, with rights of the directories checked; the path is the caller's. */
int path_user(struct task *t, u64 directory, u64 name, u32 flags, struct path *path);

#endif
