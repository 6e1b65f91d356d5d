// SPDX-License-Identifier: Apache-2.0
/* Extended attributes in memory. */
#include "caller.h"
#include "tmpfs.h"

struct attribute_list {
	struct attribute_list *next;
	u64 size;
	u8 *value;
	char name[];
};

static struct attribute_list **find(struct attribute_list **list, const char *name)
{
	while (*list && !strings_equal((*list)->name, name))
		list = &(*list)->next;
	return list;
}

s64 attributes_get(struct attribute_list *list, const char *name, void *value, u64 size)
{
	struct attribute_list *found = *find(&list, name);

	if (!found)
		return -ENODATA;
	if (!size)
		return (s64)found->size;
	if (found->size > size)
		return -ERANGE;
	bytes_copy(value, found->value, found->size);
	return (s64)found->size;
}

static void attribute_free(struct attribute_list *attribute)
{
	kfree(attribute->value);
	kfree(attribute);
}

static struct attribute_list *attribute_new(const char *name, const void *value, u64 size)
{
	u64 length = string_size(name) + 1;
	struct attribute_list *new = kmalloc(sizeof(*new) + length);

	if (!new)
		return NULL;
	new->value = kmalloc(size ? size : 1);
	if (!new->value) {
		kfree(new);
		return NULL;
	}
	new->size = size;
	bytes_copy(new->name, name, length);
	bytes_copy(new->value, value, size);
	return new;
}

int attributes_set(struct attribute_list **list, const char *name, const void *value, u64 size, u32 flags)
{
	struct attribute_list **place = find(list, name), *old = *place, *new;

	if (old && flags & XATTR_CREATE)
		return -EEXIST;
	if (!old && flags & XATTR_REPLACE)
		return -ENODATA;
	new = attribute_new(name, value, size);
	if (!new)
		return -ENOSPC;
	new->next = old ? old->next : NULL;
	*place = new;
	if (old)
		attribute_free(old);
	return 0;
}

s64 attributes_list(struct attribute_list *list, char *names, u64 size)
{
	u64 used = 0;

	for (; list; list = list->next) {
		u64 length = string_size(list->name) + 1;

		if (size && used + length > size)
			return -ERANGE;
		if (size)
			bytes_copy(names + used, list->name, length);
		used += length;
	}
	return (s64)used;
}

int attributes_remove(struct attribute_list **list, const char *name)
{
	struct attribute_list **place = find(list, name), *old = *place;

	if (!old)
		return -ENODATA;
	*place = old->next;
	attribute_free(old);
	return 0;
}

void attributes_free(struct attribute_list **list)
{
	while (*list) {
		struct attribute_list *next = (*list)->next;

		attribute_free(*list);
		*list = next;
	}
}
