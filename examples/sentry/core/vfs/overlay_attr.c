// SPDX-License-Identifier: Apache-2.0
/* Changes of attributes in an overlay, and extended attributes. */
#include "overlay.h"

static const char prefix[] = "trusted.overlay.";

enum { PREFIX = sizeof(prefix) - 1, LONGEST = XATTR_NAME_MAX + 1 };

int overlay_setattr(struct inode *inode, const struct attributes *new)
{
	int error = new->which & ATTR_SIZE ? overlay_copy_content(inode, new->size) : overlay_copy_up(inode);

	if (error)
		return error;
	error = inode_setattr(overlay_real(overlay_node_of(inode)), new);
	overlay_apply(inode);
	if (new->which & ATTR_ACCESSED)
		inode->accessed = new->accessed;
	return error;
}

bool overlay_is_private(const char *name)
{
	return string_size(name) >= PREFIX && bytes_equal(name, prefix, PREFIX);
}

/* The name of an attribute in the layer, as on Linux: trusted.overlay.* is escaped; NULL: it would be too long. */
static const char *name_in_layer(const char *name, char *room)
{
	u64 size = string_size(name);

	if (!overlay_is_private(name))
		return name;
	if (size + sizeof("overlay.") > LONGEST)
		return NULL;
	bytes_copy(room, prefix, PREFIX);
	bytes_copy(room + PREFIX, "overlay.", sizeof("overlay.") - 1);
	bytes_copy(room + PREFIX + sizeof("overlay.") - 1, name + PREFIX, size - PREFIX + 1);
	return room;
}

s64 overlay_getxattr(struct inode *inode, const char *name, void *value, u64 size)
{
	struct inode *real = overlay_real(overlay_node_of(inode));
	char room[LONGEST];

	name = name_in_layer(name, room);
	if (!name)
		return -ERANGE;
	return real->operations->getxattr ? real->operations->getxattr(real, name, value, size) : -EOPNOTSUPP;
}

int overlay_setxattr(struct inode *inode, const char *name, const void *value, u64 size, u32 flags)
{
	s64 there = flags ? overlay_getxattr(inode, name, NULL, 0) : 0;
	char room[LONGEST];
	struct inode *real;
	int error;

	name = name_in_layer(name, room);
	if (!name)
		return -ERANGE;
	if (flags & XATTR_CREATE && there >= 0)
		return -EEXIST;
	if (flags & XATTR_REPLACE && there == -ENODATA)
		return -ENODATA;
	error = overlay_copy_up(inode);
	if (error)
		return error;
	real = overlay_real(overlay_node_of(inode));
	error = real->operations->setxattr ? real->operations->setxattr(real, name, value, size, flags) : -EOPNOTSUPP;
	overlay_apply(inode);
	return error;
}

int overlay_removexattr(struct inode *inode, const char *name)
{
	s64 there = overlay_getxattr(inode, name, NULL, 0);
	char room[LONGEST];
	struct inode *real;
	int error;

	if (there < 0)
		return (int)there;
	error = overlay_copy_up(inode);
	if (error)
		return error;
	real = overlay_real(overlay_node_of(inode));
	error = real->operations->removexattr(real, name_in_layer(name, room));
	overlay_apply(inode);
	return error;
}

/* Remove the layer's own attributes from a list, and unescape the other names: its new size. */
static s64 without_private(char *names, s64 size)
{
	s64 used = 0;

	for (s64 at = 0, next; at < size; at = next) {
		char *name = names + at;
		u64 length = string_size(name) + 1;

		next = at + (s64)length;
		if (overlay_is_private(name)) {
			u64 inner = sizeof("overlay.") - 1;

			if (length <= PREFIX + inner || !bytes_equal(name + PREFIX, "overlay.", inner))
				continue;
			for (u64 i = PREFIX; i + inner < length; i++)
				name[i] = name[i + inner];
			length -= inner;
		}
		for (u64 i = 0; i < length; i++)
			names[used + (s64)i] = name[i];
		used += (s64)length;
	}
	return used;
}

s64 overlay_listxattr(struct inode *inode, char *names, u64 size)
{
	struct inode *real = overlay_real(overlay_node_of(inode));
	s64 whole = real->operations->listxattr ? real->operations->listxattr(real, NULL, 0) : 0, used;
	char *all;

	if (whole <= 0)
		return whole;
	all = kmalloc((u64)whole);
	if (!all)
		return -ENOMEM;
	used = real->operations->listxattr(real, all, (u64)whole);
	if (used > 0)
		used = without_private(all, used);
	if (used > 0 && size && (u64)used > size)
		used = -ERANGE;
	if (used > 0 && size)
		bytes_copy(names, all, (u64)used);
	kfree(all);
	return used;
}
