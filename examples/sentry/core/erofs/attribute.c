// SPDX-License-Identifier: Apache-2.0
/* Extended attributes: of a file's own, and those that several files share. */
#include "erofs.h"

static const struct {
	u8 number;
	const char *text;
} prefixes[] = { { 1, "user." }, { 4, "trusted." }, { 6, "security." } };

/* An attribute while all are looked at: its prefix, the rest of its name, and where its value lies. */
struct found {
	const char *prefix;
	char rest[NAME_MAX + 1];
	u64 value;
	u32 size, name_size;
};

/* Positions in the area of a file's attributes. */
struct walk {
	struct inode *inode;
	u32 shared, next; /* how many are shared, and the next of these */
	u64 at, end;	  /* of its own */
};

static int begin(struct inode *inode, struct walk *walk)
{
	const struct erofs_node *node = erofs_node_of(inode);
	struct erofs_attributes head;
	int error = node->attributes_size ? erofs_copy(erofs_of(inode), node->behind, &head, sizeof(head)) : -ENODATA;

	if (error)
		return error;
	*walk = (struct walk){ .inode = inode, .shared = head.shared };
	walk->at = node->behind + sizeof(head) + 4u * head.shared;
	walk->end = node->behind + node->attributes_size;
	return walk->at <= walk->end ? 0 : -EUCLEAN;
}

/* Where the next one lies: 0, -ENODATA at the end, or another error. */
static int next_place(struct walk *walk, u64 *at)
{
	const struct erofs *erofs = erofs_of(walk->inode);
	const u64 numbers = erofs_node_of(walk->inode)->behind + sizeof(struct erofs_attributes);
	u32 number;
	int error;

	if (walk->next == walk->shared) {
		*at = walk->at;
		return walk->at + sizeof(struct erofs_attribute) <= walk->end ? 0 : -ENODATA;
	}
	error = erofs_copy(erofs, numbers + 4ull * walk->next, &number, sizeof(number));
	*at = erofs->attributes + 4ull * number;
	return error;
}

static const char *prefix_of(u8 number)
{
	for (u32 i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (prefixes[i].number == number)
			return prefixes[i].text;
	return NULL;
}

/* The next one: 0, -ENODATA at the end, or another error. The prefix is NULL for one that is not shown. */
static int next(struct walk *walk, struct found *found)
{
	const struct erofs *erofs = erofs_of(walk->inode);
	struct erofs_attribute head;
	u64 at;
	int error = next_place(walk, &at);

	if (!error)
		error = erofs_copy(erofs, at, &head, sizeof(head));
	if (error)
		return error;
	if (walk->next == walk->shared && !head.name_size && !head.prefix)
		return -ENODATA; /* what is left is padding */
	error = erofs_copy(erofs, at + sizeof(head), found->rest, head.name_size);
	found->rest[head.name_size] = 0;
	found->name_size = head.name_size;
	found->prefix = prefix_of(head.prefix);
	found->value = at + sizeof(head) + head.name_size;
	found->size = head.value_size;
	if (walk->next < walk->shared)
		walk->next++;
	else
		walk->at = (found->value + found->size + 3) & ~3ull;
	return error;
}

s64 erofs_getxattr(struct inode *inode, const char *name, void *value, u64 size)
{
	struct found *found = kmalloc(sizeof(*found));
	struct walk walk;
	s64 error = found ? begin(inode, &walk) : -ENOMEM;

	while (!error) {
		u64 length;

		error = next(&walk, found);
		length = error || !found->prefix ? 0 : string_size(found->prefix);
		if (!length || string_size(name) < length || !bytes_equal(name, found->prefix, length) ||
		    !strings_equal(name + length, found->rest))
			continue;
		if (size && found->size > size)
			error = -ERANGE;
		else if (size)
			error = erofs_copy(erofs_of(inode), found->value, value, found->size);
		error = error ? error : (s64)found->size;
		break;
	}
	kfree(found);
	return error;
}

s64 erofs_listxattr(struct inode *inode, char *names, u64 size)
{
	struct found *found = kmalloc(sizeof(*found));
	struct walk walk;
	u64 used = 0;
	s64 error = found ? begin(inode, &walk) : -ENOMEM;

	while (!error) {
		u64 length, whole;

		error = next(&walk, found);
		if (error || !found->prefix)
			continue;
		length = string_size(found->prefix);
		whole = length + found->name_size + 1;
		if (size && used + whole > size)
			error = -ERANGE;
		else if (size) {
			bytes_copy(names + used, found->prefix, length);
			bytes_copy(names + used + length, found->rest, found->name_size + 1);
		}
		used += whole;
	}
	kfree(found);
	return error == -ENODATA ? (s64)used : error;
}
