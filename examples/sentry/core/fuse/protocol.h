/* SPDX-License-Identifier: Apache-2.0 */
/* FUSE's messages, protocol 7.31 and later, as far as the core sends them. */
#ifndef SENTRY_FUSE_PROTOCOL_H
#define SENTRY_FUSE_PROTOCOL_H

#include "../types.h"

enum {
	FUSE_LOOKUP = 1, FUSE_FORGET = 2, FUSE_GETATTR = 3, FUSE_SETATTR = 4, FUSE_READLINK = 5, FUSE_SYMLINK = 6,
	FUSE_MKNOD = 8, FUSE_MKDIR = 9, FUSE_UNLINK = 10, FUSE_RMDIR = 11, FUSE_LINK = 13, FUSE_OPEN = 14, FUSE_READ = 15,
	FUSE_WRITE = 16, FUSE_STATFS = 17, FUSE_RELEASE = 18, FUSE_FSYNC = 20, FUSE_SETXATTR = 21, FUSE_GETXATTR = 22,
	FUSE_LISTXATTR = 23, FUSE_REMOVEXATTR = 24, FUSE_INIT = 26, FUSE_OPENDIR = 27, FUSE_RELEASEDIR = 29,
	FUSE_CREATE = 35, FUSE_DESTROY = 38, FUSE_FALLOCATE = 43, FUSE_READDIRPLUS = 44, FUSE_RENAME2 = 45,
	FUSE_LSEEK = 46, FUSE_TMPFILE = 51,
};

enum { FUSE_MAJOR = 7, FUSE_MINOR = 38, FUSE_ROOT = 1 };
/* Features of FUSE_INIT. */
enum {
	FUSE_ASYNC_READ = 1 << 0, FUSE_BIG_WRITES = 1 << 5, FUSE_DONT_MASK = 1 << 6, FUSE_READDIRPLUS_ALWAYS = 1 << 13,
	FUSE_PARALLEL_DIROPS = 1 << 18, FUSE_MAX_PAGES = 1 << 22, FUSE_KILLPRIV_V2 = 1 << 28, FUSE_INIT_EXT = 1 << 30,
};
/* A feature of pyvmm-fsd in the second word: with this handle, READ opens the file, reads and closes it. */
enum { FUSE_READ_BY_NODE = 1 << 30 };
/* Another one: an answer to WRITE ends with the attributes that the file has then. */
enum { FUSE_WRITE_ATTR = 1 << 29 };
#define FUSE_NO_FILE (~0ull)
/* Of an answer to OPENDIR: the entries may be kept. */
enum { FUSE_OPEN_CACHE_DIR = 1 << 3 };
/* Of setattr. */
enum {
	FATTR_MODE = 1, FATTR_USER = 2, FATTR_GROUP = 4, FATTR_SIZE = 8, FATTR_ACCESSED = 16, FATTR_MODIFIED = 32,
	FATTR_FH = 64, FATTR_CHANGED = 1024, FATTR_KILL_SUIDGID = 2048,
};
enum { FUSE_WRITE_KILL_SUIDGID = 4, FUSE_FSYNC_DATA = 1 };

struct fuse_in {
	u32 size, opcode;
	u64 unique, node;
	u32 user, group, pid;
	u16 extensions, pad;
};

struct fuse_out {
	u32 size;
	s32 error;
	u64 unique;
};

struct fuse_attr {
	u64 inode, size, blocks, accessed, modified, changed;
	u32 accessed_ns, modified_ns, changed_ns, mode, links, user, group, device, block_size, flags;
};

struct fuse_entry {
	u64 node, generation, entry_valid, attr_valid;
	u32 entry_valid_ns, attr_valid_ns;
	struct fuse_attr attr;
};

struct fuse_attr_out {
	u64 valid;
	u32 valid_ns, pad;
	struct fuse_attr attr;
};

struct fuse_init_in {
	u32 major, minor, max_readahead, flags, flags2, unused[11];
};

struct fuse_init_out {
	u32 major, minor, max_readahead, flags;
	u16 max_background, congestion;
	u32 max_write, time_gran;
	u16 max_pages, map_alignment;
	u32 flags2, unused[7];
};

struct fuse_getattr_in {
	u32 flags, pad;
	u64 fh;
};

struct fuse_setattr_in {
	u32 valid, pad;
	u64 fh, size, lock_owner, accessed, modified, changed;
	u32 accessed_ns, modified_ns, changed_ns, mode, unused, user, group, unused2;
};

struct fuse_open_in {
	u32 flags, open_flags;
};

struct fuse_open_out {
	u64 fh;
	u32 flags, pad;
};

struct fuse_create_in {
	u32 flags, mode, umask, open_flags;
};

struct fuse_create_out {
	struct fuse_entry entry;
	struct fuse_open_out open;
};

struct fuse_mknod_in {
	u32 mode, device, umask, pad;
};

struct fuse_mkdir_in {
	u32 mode, umask;
};

struct fuse_rename2_in {
	u64 directory;
	u32 flags, pad;
};

struct fuse_link_in {
	u64 node;
};

/* Of reads and writes. */
struct fuse_io_in {
	u64 fh, offset;
	u32 size, io_flags;
	u64 lock_owner;
	u32 flags, pad;
};

struct fuse_write_out {
	u32 size, pad;
	struct fuse_attr_out attr; /* FUSE_WRITE_ATTR */
};

struct fuse_release_in {
	u64 fh;
	u32 flags, release_flags;
	u64 lock_owner;
};

struct fuse_fsync_in {
	u64 fh;
	u32 flags, pad;
};

struct fuse_fallocate_in {
	u64 fh, offset, size;
	u32 mode, pad;
};

struct fuse_lseek_in {
	u64 fh, offset;
	u32 whence, pad;
};

struct fuse_statfs_out {
	u64 blocks, free, available, files, files_free;
	u32 block_size, name_max, fragment_size, pad, spare[6];
};

struct fuse_forget_in {
	u64 lookups;
};

struct fuse_xattr_in {
	u32 size, flags; /* flags: of setxattr */
};

struct fuse_xattr_out {
	u32 size, pad;
};

/* An entry of FUSE_READDIRPLUS; the name follows, and zeros up to a multiple of 8. */
struct fuse_dirent {
	struct fuse_entry entry;
	u64 inode, next;
	u32 name_size, type;
};

_Static_assert(sizeof(struct fuse_in) == 40, "as in the protocol");
_Static_assert(sizeof(struct fuse_attr) == 88, "as in the protocol");
_Static_assert(sizeof(struct fuse_entry) == 128, "as in the protocol");
_Static_assert(sizeof(struct fuse_init_in) == 64 && sizeof(struct fuse_init_out) == 64, "as in the protocol");
_Static_assert(sizeof(struct fuse_setattr_in) == 88, "as in the protocol");
_Static_assert(sizeof(struct fuse_io_in) == 40, "as in the protocol");
_Static_assert(sizeof(struct fuse_statfs_out) == 80, "as in the protocol");
_Static_assert(sizeof(struct fuse_dirent) == 152, "as in the protocol");

#endif
