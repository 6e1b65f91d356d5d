/* SPDX-License-Identifier: Apache-2.0 */
/* What lies on an image of EROFS (Linux, Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h): little-endian. */
#ifndef SENTRY_EROFS_FORMAT_H
#define SENTRY_EROFS_FORMAT_H

#include "../types.h"

enum { EROFS_MAGIC = 0xe0f5e1e2, EROFS_SUPER_AT = 1024, EROFS_BLOCK_BITS = 12, EROFS_SLOT = 32 };

struct erofs_super {
	u32 magic, checksum, compatible;
	u8 block_bits, slots;
	u16 root;
	u64 inodes, built;
	u32 built_ns, blocks, metadata, attributes; /* the last three in blocks */
	u8 uuid[16], volume[16];
	u32 incompatible; /* what a reader must know */
	u16 compression, devices, device_slot;
	u8 directory_bits, prefixes;
	u32 prefix_start;
	u64 packed;
	u8 rest[24];
} __attribute__((packed));

enum { EROFS_EXTENDED = 1 }; /* in `format`; the layout is in the three bits above */
enum { EROFS_PLAIN, EROFS_COMPRESSED, EROFS_INLINE, EROFS_COMPACT, EROFS_CHUNKS };

/* `start` is the first block of the content, or a device's number. */
struct erofs_compact {
	u16 format, attributes, mode, links;
	u32 size, modified, start, number;
	u16 user, group;
	u32 reserved;
} __attribute__((packed));

struct erofs_extended {
	u16 format, attributes, mode, reserved;
	u64 size;
	u32 start, number, user, group;
	u64 modified;
	u32 modified_ns, links;
	u8 rest[16];
} __attribute__((packed));

/* A block of a directory begins with these, in the order of the names, which follow without separators. */
struct erofs_entry {
	u64 inode;
	u16 name_at;
	u8 type, reserved;
} __attribute__((packed));

/* Behind an inode: numbers of shared attributes, in units of 4 bytes, then attributes of its own. */
struct erofs_attributes {
	u32 filter;
	u8 shared, reserved[7];
} __attribute__((packed));

struct erofs_attribute {
	u8 name_size, prefix;
	u16 value_size;
} __attribute__((packed));

_Static_assert(sizeof(struct erofs_super) == 128, "erofs_super_block");
_Static_assert(sizeof(struct erofs_compact) == 32, "erofs_inode_compact");
_Static_assert(sizeof(struct erofs_extended) == 64, "erofs_inode_extended");
_Static_assert(sizeof(struct erofs_entry) == 12, "erofs_dirent");

#endif
