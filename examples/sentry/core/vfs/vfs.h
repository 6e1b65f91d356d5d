/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files: inodes, names of inodes (dentries), mounts, open files, and the operations that a file system provides.
 *
 * Every operation may sleep.  Errors are -errno.  A pointer that a function returns is a reference that the caller
 * puts back, unless the function's comment says "borrowed".
 */
#ifndef SENTRY_VFS_H
#define SENTRY_VFS_H

#include "../abi.h"
#include "../list.h"
#include "../table.h"
#include "../wait_queue.h"
#include "file_abi.h"

struct async;
struct dentry;
struct entries;
struct file;
struct inode;
struct io;
struct mm;
struct mount;
struct path;
struct pipe;
struct poll;
struct super;
struct task;
struct text;

/* A lock that is held while a task sleeps. Zeros are a free one. */
struct mutex {
	bool held;
	struct wait_queue queue;
};

void mutex_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
/* Lock two, which may be the same, in one order for all. */
void mutex_lock_two(struct mutex *a, struct mutex *b);
void mutex_unlock_two(struct mutex *a, struct mutex *b);

/* -- attributes -- */

enum attribute {
	ATTR_MODE = 1, ATTR_USER = 2, ATTR_GROUP = 4, ATTR_SIZE = 8, ATTR_ACCESSED = 16, ATTR_MODIFIED = 32, ATTR_CHANGED = 64,
};

/* New values of the attributes that `which` names (ATTR_*). The caller's rights have been checked. */
struct attributes {
	u32 which, mode, user, group;
	u64 size;
	struct timespec accessed, modified, changed;
	struct file *file; /* that the program used for the change, or NULL */
};

struct statfs {
	s64 type, block_size;
	u64 blocks, blocks_free, blocks_available, files, files_free;
	s32 id[2];
	s64 name_max, fragment_size, flags, spare[4];
};

/* -- what a file system provides: NULL where it has no such operation -- */

struct inode_operations {
	/*
	 * Find a name in a directory: dentry_attach() the inode, or leave the dentry without one if there is none.
	 * The directory is locked, here and in all operations that change it.
	 */
	int (*lookup)(struct inode *directory, struct dentry *dentry);
	/* Make a regular file, socket, FIFO or device, and attach its inode to the dentry. */
	int (*create)(struct inode *directory, struct dentry *dentry, u32 mode, u64 device);
	int (*mkdir)(struct inode *directory, struct dentry *dentry, u32 mode);
	int (*symlink)(struct inode *directory, struct dentry *dentry, const char *target);
	int (*link)(struct inode *inode, struct inode *directory, struct dentry *dentry);
	int (*unlink)(struct inode *directory, struct dentry *dentry);
	int (*rmdir)(struct inode *directory, struct dentry *dentry);
	/* The caller moves the dentries afterwards (or exchanges them). `to` may have an inode, which is replaced. */
	int (*rename)(struct inode *old_directory, struct dentry *from, struct inode *directory, struct dentry *to, u32 flags);
	/* Make a regular file without a name. */
	int (*tmpfile)(struct inode *directory, u32 mode, struct inode **inode);

	/* Write the target without a zero; its size. At most `size` bytes. */
	s64 (*readlink)(struct inode *inode, char *target, u64 size);
	/* A link that leads to an object instead of a name, as those of /proc/self/fd. */
	int (*jump)(struct inode *inode, struct path *target);

	/* Bring the attributes in struct inode up to date; NULL: they always are. */
	int (*getattr)(struct inode *inode);
	/* Change attributes in struct inode and below; NULL: in struct inode only. */
	int (*setattr)(struct inode *inode, const struct attributes *new);

	/* Values of extended attributes; sizes. A size of 0: how much room is needed. */
	s64 (*getxattr)(struct inode *inode, const char *name, void *value, u64 size);
	int (*setxattr)(struct inode *inode, const char *name, const void *value, u64 size, u32 flags);
	s64 (*listxattr)(struct inode *inode, char *names, u64 size);
	int (*removexattr)(struct inode *inode, const char *name);

	/*
	 * A page of the content for a mapping: its offset in RAM, with a reference for the caller; -ENXIO behind the end.
	 * With `write` it is for a shared mapping that changes it: the page is the file's own and is dirty from now on.
	 */
	s64 (*page)(struct inode *inode, u64 index, bool write);

	/* A program opens it: change file->operations, set file->data, or refuse. */
	int (*open)(struct inode *inode, struct file *file);
};

struct file_operations {
	/* Move bytes at *position and advance it; how many. 0 of read: the end. */
	s64 (*read)(struct file *file, struct io *to, u64 *position);
	s64 (*write)(struct file *file, struct io *from, u64 *position);
	/* NULL: by the size of the inode. */
	s64 (*seek)(struct file *file, s64 offset, u32 whence);
	/*
	 * Pass entries to entries_put() from file->position on; it ends as the cookie of the next entry.  The directory
	 * is locked: a page fault in the program's buffer can sleep.
	 */
	int (*readdir)(struct file *file, struct entries *entries);
	/* POLLIN and so on that hold now. poll_wait() with the queues that are woken when they change. NULL: always ready. */
	u32 (*poll)(struct file *file, struct poll *poll);
	bool nowait; /* RWF_NOWAIT is possible */
	bool write_simple; /* each vector is a write of its own, and nothing is spliced to it */
	bool read_simple;  /* nothing is spliced from it */
	bool no_read_flags; /* preadv2() takes none of the flags that change how it reads */
	s64 (*ioctl)(struct file *file, u32 command, u64 argument);
	int (*fsync)(struct file *file, bool data_only);
	s64 (*fallocate)(struct file *file, u32 mode, u64 offset, u64 size);
	int (*mmap)(struct file *file, u32 prot, u32 flags); /* may be mapped by inode_operations.page; NULL: -ENODEV */
	int (*flush)(struct file *file); /* a descriptor of it is closed */
	void (*release)(struct file *file);
	bool async; /* O_ASYNC has an effect */
};

struct super_operations {
	int (*statfs)(struct super *super, struct statfs *stat);
	int (*sync)(struct super *super);
	/* The last reference to an inode is gone: free what belongs to it. */
	void (*evict)(struct inode *inode);
	/* A dentry is about to be freed. */
	void (*forget)(struct dentry *dentry);
	/* 1: what the dentry has still holds; 0: look it up again. NULL: it always holds. */
	int (*revalidate)(struct dentry *dentry);
	void (*show)(struct super *super, struct text *text); /* options for /proc/mounts, each behind a comma */
	int (*remount)(struct super *super, u32 flags, char *options); /* MS_RDONLY, and options that it may change */
	void (*release)(struct super *super);
};

/* A mounted file system. */
struct super {
	u32 references;
	const struct super_operations *operations;
	const char *type;
	struct dentry *root;
	u64 device; /* st_dev */
	u64 magic;
	u64 next_inode, next_cookie;
	bool pinned; /* its dentries are the directories: they stay until they are unlinked */
	bool negative; /* names that do not exist may be remembered */
	bool refuses;  /* it makes no file whose name exists: a lookup before that is not needed */
	u32 flags;     /* MS_RDONLY */
	u32 writers;   /* open files that may write */
	u32 depth;     /* of an overlay: how many levels of overlays, including itself */
	struct list watches; /* of inotify, on its inodes */
	void *data;
};

struct inode {
	u32 references;
	const struct inode_operations *operations;
	const struct file_operations *file_operations; /* of files that are opened, unless open() changes them */
	struct super *super;
	u64 number, size, blocks, device;
	u32 mode, user, group, links;
	u32 block_size;
	struct timespec accessed, modified, changed, born;
	struct lock_list *locks;
	struct mutex mutex;
	struct list watches; /* of inotify */
	struct list mappings; /* for mm.c */
	u32 writers; /* open files that may write */
	u32 programs; /* open files whose program runs: then none may write */
	struct pipe *pipe; /* of a FIFO that is open */
	u32 seals; /* of a memfd */
	bool may_seal;
	bool can_link; /* a file of O_TMPFILE */
	bool dead; /* a directory that was removed */
	void *data; /* the file system's */
};

enum { SHORT_NAME = 40 };

struct dentry {
	u32 references;
	struct super *super;
	struct table_entry by_name;
	struct dentry *parent; /* a reference; of a root: itself */
	struct inode *inode; /* a reference; NULL: there is no such file */
	struct list siblings, children; /* in the order of their cookies */
	struct list unused; /* in the order in which they are dropped */
	u64 cookie; /* its place in its directory */
	u64 version; /* of a directory: grows when an entry leaves it */
	char *name;
	const char *label; /* of a file that no directory has: what /proc shows */
	u8 name_size;
	bool hashed, mounted;
	char short_name[SHORT_NAME];
};

struct mount {
	u32 references;
	u32 flags; /* MS_* */
	u32 writers; /* open files that may write */
	struct super *super;
	struct dentry *root;
	struct mount *parent; /* NULL of the first one */
	struct dentry *point; /* in parent */
	struct list all;
	u32 id;
	bool expires; /* the next umount2 removes it, unless it is used before */
	char *source;
};

struct path {
	struct mount *mount;
	struct dentry *dentry;
};

enum { OWNER_TASK, OWNER_PROCESS, OWNER_GROUP };

/* Who gets the signals of O_ASYNC, and the users who decided so. */
struct file_owner {
	s32 pid; /* 0: nobody */
	u32 pids, type, user, effective;
};

/* An open file: what several descriptors may share. */
struct file {
	u32 references;
	u32 flags; /* O_* */
	bool readable, writable;
	bool stream; /* without a position: -ESPIPE */
	bool fixed;  /* lseek stays where it is, pread and pwrite: -ESPIPE */
	bool writes; /* it counts as one of the writers of its inode, file system and mount */
	bool runs;   /* it counts as one of its inode's programs */
	bool odd;    /* a stream, but pread and pwrite fail as read and write do */
	const struct file_operations *operations;
	struct path path;
	struct inode *inode; /* that of the path; borrowed from there */
	u64 position;	    /* 0 for a stream */
	u64 no_end_before; /* of a pipe: how many writers there had been when it was opened without one */
	void *data;
	struct dentry *hint; /* of readdir on dentries, as long as the directory's version is this */
	u64 hint_version;
	struct list polls; /* of epoll */
	struct file_owner owner;
	s32 signal; /* F_SETSIG */
	struct async *async; /* NULL: without O_ASYNC */
};

/* Whether it can be read and written at a position of the caller's. */
static inline bool file_has_position(const struct file *file)
{
	return file->odd || !(file->stream || file->fixed);
}

/* -- inode.c -- */

struct super *super_new(const struct super_operations *operations, const char *type, u64 magic);
void super_put(struct super *super);
/* Set the root of a file system: 0 or -ENOMEM. Takes the reference to the inode in any case, which can be NULL. */
int super_set_root(struct super *super, struct inode *inode);

struct inode *inode_new(struct super *super, u32 mode); /* with times of now and the caller as the owner */
void inode_get(struct inode *inode);
void inode_put(struct inode *inode);
struct timespec time_real(void);
void inode_init_owner(struct inode *inode, const struct inode *directory, u32 mode); /* set-group-ID directories */
int inode_permission(struct inode *inode, u32 wanted); /* MAY_* */
bool inode_owned(const struct inode *inode); /* by the caller, or it may do as if */
void inode_strip(struct inode *inode, struct attributes *new); /* set-ID bits, when the content changes */
int inode_refresh(struct inode *inode); /* bring the attributes in struct inode up to date */
/* Change attributes. The inode is locked meanwhile: a write that sleeps relies on the size. */
int inode_setattr(struct inode *inode, const struct attributes *new);
int inode_change(struct inode *inode, struct attributes *new); /* for a program: sets ctime and cuts mappings, too */
void inode_apply(struct inode *inode, const struct attributes *new); /* the attributes in struct inode */
/* Sleeping locks of an inode's content and of a directory's entries. */
void inode_lock(struct inode *inode);
void inode_unlock(struct inode *inode);

enum { MAY_EXEC = 1, MAY_WRITE = 2, MAY_READ = 4 };

/* -- dentry.c -- */

struct dentry *dentry_new_root(struct super *super, struct inode *inode); /* takes the reference */
struct dentry *dentry_find(struct dentry *parent, const char *name, u64 size); /* that is known; NULL */
struct dentry *dentry_new(struct dentry *parent, const char *name, u64 size); /* not yet known to dentry_find */
void dentry_attach(struct dentry *dentry, struct inode *inode); /* takes the reference */
void dentry_get(struct dentry *dentry);
void dentry_put(struct dentry *dentry);
int dentry_hash(struct dentry *dentry); /* dentry_find finds it from now on; 0 or -ENOMEM */
void dentry_unhash(struct dentry *dentry); /* of a file that is gone, or of a name that no longer holds */
void dentry_move(struct dentry *dentry, struct dentry *to); /* to the place of `to`, which is unhashed */
int dentry_rename(struct dentry *dentry, const char *name); /* of one that is not hashed */
void dentry_exchange(struct dentry *a, struct dentry *b);
void dentry_forget(struct super *super); /* drop all that is not used */
void dentry_drop_all(struct super *super); /* the names of a pinned file system that is no longer used */
bool dentry_above(const struct dentry *above, const struct dentry *dentry);
s64 path_name(const struct path *path, const struct path *root, char *to, u64 size, bool *reachable);

s64 path_show(const struct path *path, char *to, u64 size); /* as /proc does; without a zero */

/* -- mount.c -- */

/* A detached mount of a part of a file system; takes the references, on failure, too. NULL: no memory. */
struct mount *mount_new(struct super *super, struct dentry *root, u32 flags, const char *source);
/* A detached mount of a part of what another one shows, with its flags; NULL: no memory. */
struct mount *mount_copy(const struct mount *mount, struct dentry *root);
/* Show a part of a file system at a point, or as the root (NULL); takes the references to super and root. */
int mount_add(struct super *super, struct dentry *root, const struct path *point, u32 flags, const char *source);
void mount_get(struct mount *mount);
void mount_put(struct mount *mount);
struct mount *mount_root(void); /* borrowed */
struct list *mount_list(void);
struct mount *mount_after(u32 id); /* with the next higher one, a reference; NULL */
void mount_attach(struct mount *mount, const struct path *point); /* takes the reference */
/* Remove a mount from the list: its place. The caller puts this and the list's reference last: both can sleep. */
struct path mount_detach(struct mount *mount);
bool mount_is_below(const struct mount *mount, const struct path *above);
int mount_writable(const struct mount *mount); /* 0 or -EROFS */
void path_get(const struct path *path);
void path_put(struct path *path);
void path_replace(struct path *path, struct path with); /* takes the references of `with` */
void path_enter_mounts(struct path *path);

/* -- walk.c -- */

enum {
	WALK_FOLLOW = 1, /* a link at the end */
	WALK_DIRECTORY = 2, /* the result must be a directory */
	WALK_PARENT = 4, /* stop before the last component */
	WALK_EMPTY = 8, /* an empty name is the start */
	WALK_FD = 16, /* a descriptor will be needed */
};

/* Find a name of the core's: absolute, from the root. */
int path_lookup(const char *name, u32 flags, struct path *path);

/* -- file.c -- */

struct file *file_new(const struct path *path, const struct file_operations *operations, u32 flags);
int file_open(const struct path *path, u32 flags, struct file **file); /* rights have been checked */
void file_count_writer(struct file *file, s32 change); /* 1: as one of the writers of its inode; -1: no more */
void file_get(struct file *file);
void file_put(struct file *file);
s64 file_read_core(struct file *file, void *to, u64 size, u64 position); /* into the core's memory */
s64 file_write_core(struct file *file, const void *from, u64 size, u64 position);

s64 file_seek(struct file *file, s64 offset, u32 whence); /* by the inode's size: the new position */
s64 file_stay(struct file *file, s64 offset, u32 whence);
s64 directory_seek(struct file *file, s64 offset, u32 whence);
int file_sync_nothing(struct file *file, bool data_only); /* fsync of files that need none */
/* Checks of limits and seals before bytes are written to a regular file; it may make them fewer. */
s64 inode_may_write(struct inode *inode, struct io *from, u64 position);
s64 inode_may_grow(const struct inode *inode, u64 size); /* SIGXFSZ and -EFBIG beyond RLIMIT_FSIZE */
int device_open(struct file *file);

/* -- locks.c -- */

void locks_release(struct inode *inode, const void *owner); /* an open file or a table of descriptors is gone */
void locks_free(struct inode *inode);

/* -- poll.c -- */

/* A caller that is woken when the state of files changes. */
struct poll {
	void (*add)(struct poll *poll, struct wait_queue *queue);
};

/* One that outlasts a call: it is notified of each change. */
struct standing_poll {
	struct poll poll;
	void (*notify)(struct waiter *waiter);
	void *data; /* of the waiters */
	u32 count;
	struct waiter waiters[4];
};

void poll_wait(struct poll *poll, struct wait_queue *queue); /* no-op if poll is NULL */
void epoll_forget(struct file *file); /* it is gone */
u32 file_poll(struct file *file, struct poll *poll);
/* Start, and return what holds now. The poll is zeros, and must be stopped before the file is freed. */
u32 poll_start(struct standing_poll *poll, struct file *file, void (*notify)(struct waiter *waiter), void *data);
void poll_stop(struct standing_poll *poll);

/* -- anonymous.c -- */

int anonymous_path(u32 mode, const char *name, struct path *path);
int anonymous_from(struct inode *inode, const char *name, struct path *path); /* takes the inode */
int anonymous_file(u32 mode, const char *name, const struct file_operations *operations, u32 flags, struct file **file);

/* -- io.c: bytes of the program or of the core -- */

/* Size of an entry that is no vector, but points to the next array of vectors. */
#define IO_LINK (~0ull)

struct io {
	struct mm *mm; /* NULL: the core's own memory */
	const struct iovec *vectors;
	u64 offset; /* in the first */
	u64 left;
	u32 with, without; /* flags of the file that this call sets and clears for itself */
};

static inline u32 io_flags(const struct io *io, const struct file *file)
{
	return (file->flags & ~io->without) | io->with;
}

s64 io_wait(const struct io *io, const struct file *file, struct wait_queue *queue); /* -EAGAIN if it must not */

/* Copy and advance; return how many bytes were copied. */
u64 io_put(struct io *io, const void *from, u64 size);
u64 io_get(struct io *io, void *to, u64 size);
u64 io_zero(struct io *io, u64 size);
u64 io_writable(const struct io *io, u64 most);
struct io io_core(struct iovec *vector, void *memory, u64 size);

/* -- readdir.c -- */

struct entries {
	struct task *task;
	u64 to, size, used;
	int error;
	bool (*put)(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie);
};

/* Whether there was room. The cookie is where readdir continues behind this entry. */
bool entries_put(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie);
bool entries_put_dots(struct file *file, struct entries *entries); /* with the cookies 1 and 2 behind them */
u32 entry_type(u32 mode);
int dentry_readdir(struct file *file, struct entries *entries); /* of a file system that is its dentries */

/* -- fds.c: descriptors of a process -- */

struct files;

struct files *files_new(void); /* without any */
struct files *files_with_console(void); /* 0, 1, 2 */
struct files *files_copy(struct files *files); /* for fork */
int files_unshare(struct task *t); /* a table of its own; 0 or -ENOMEM */
void files_get(struct files *files);
void files_put(struct files *files);
void files_close_on_exec(struct files *files);
struct file *fd_file(struct task *t, u64 number); /* NULL: it is not open */
s64 fd_install(struct task *t, struct file *file, u32 from, bool close_on_exec); /* takes the reference; -EMFILE */

/* What CLONE_FS shares. */
struct fs_context {
	u32 references;
	u32 umask;
	struct path root, cwd;
};

struct fs_context *fs_new(void); /* at the root of the first mount */
struct fs_context *fs_copy(struct fs_context *fs);
int fs_unshare(struct task *t); /* the same */
void fs_get(struct fs_context *fs);
void fs_put(struct fs_context *fs);

#endif
