// SPDX-License-Identifier: Apache-2.0
/*
 * Names of files.  Those of a pinned file system are its directories; others are a cache, of which the names that
 * nobody uses are dropped in the order of their last use.
 */
#include "calls.h"
#include "text.h"

static struct slab dentries = SLAB(struct dentry);
struct vfs vfs;

static u32 name_hash(const struct dentry *parent, const char *name, u64 size)
{
	return hash_bytes(name, size, (u64)parent);
}

static struct dentry *dentry_alloc(struct super *super, const char *name, u64 size)
{
	struct dentry *dentry = slab_alloc(&dentries);

	if (!dentry)
		return NULL;
	dentry->name = size < SHORT_NAME ? dentry->short_name : kmalloc(size + 1);
	if (!dentry->name) {
		slab_free(&dentries, dentry);
		return NULL;
	}
	bytes_copy(dentry->name, name, size);
	dentry->name[size] = 0;
	dentry->name_size = (u8)size;
	dentry->references = 1;
	dentry->super = super;
	list_init(&dentry->siblings);
	list_init(&dentry->children);
	list_init(&dentry->unused);
	return dentry;
}

int dentry_rename(struct dentry *dentry, const char *name)
{
	u64 size = string_size(name);
	char *copy = size < SHORT_NAME ? dentry->short_name : kmalloc(size + 1);

	if (!copy)
		return -ENOMEM;
	if (dentry->name != dentry->short_name)
		kfree(dentry->name);
	bytes_copy(copy, name, size + 1);
	dentry->name = copy;
	dentry->name_size = (u8)size;
	return 0;
}

struct dentry *dentry_new_root(struct super *super, struct inode *inode)
{
	struct dentry *dentry = dentry_alloc(super, "/", 1);

	if (!dentry)
		return NULL;
	dentry->parent = dentry;
	dentry->inode = inode;
	return dentry;
}

struct dentry *dentry_new(struct dentry *parent, const char *name, u64 size)
{
	struct dentry *dentry = dentry_alloc(parent->super, name, size);

	if (!dentry)
		return NULL;
	dentry_get(parent);
	dentry->parent = parent;
	return dentry;
}

void dentry_attach(struct dentry *dentry, struct inode *inode)
{
	dentry->inode = inode;
}

void dentry_get(struct dentry *dentry)
{
	if (!dentry->references && !list_empty(&dentry->unused)) {
		list_remove(&dentry->unused);
		vfs.unused_count--;
	}
	reference_get(&dentry->references);
}

static void leave_directory(struct dentry *dentry)
{
	table_remove(&vfs.names, &dentry->by_name);
	list_remove(&dentry->siblings);
	dentry->parent->version++;
	dentry->hashed = false;
}

/* Free a dentry without references; its parent, of which it had one. */
static struct dentry *dentry_free(struct dentry *dentry)
{
	struct dentry *parent = dentry->parent == dentry ? NULL : dentry->parent;

	if (dentry->hashed)
		leave_directory(dentry);
	if (!list_empty(&dentry->unused)) {
		list_remove(&dentry->unused);
		vfs.unused_count--;
	}
	if (dentry->inode && !dentry->inode->links)
		notify_gone(dentry->inode);
	if (dentry->super->operations->forget)
		dentry->super->operations->forget(dentry);
	inode_put(dentry->inode);
	if (dentry->name != dentry->short_name)
		kfree(dentry->name);
	slab_free(&dentries, dentry);
	return parent;
}

static void free_with_parents(struct dentry *dentry)
{
	while (dentry) {
		dentry = dentry_free(dentry);
		if (!dentry || !reference_put(&dentry->references))
			return;
		if (dentry->hashed) {
			list_add(&vfs.unused, &dentry->unused);
			vfs.unused_count++;
			return;
		}
	}
}

void dentry_put(struct dentry *dentry)
{
	if (!dentry || !reference_put(&dentry->references))
		return;
	if (!dentry->hashed) {
		free_with_parents(dentry);
		return;
	}
	list_add(&vfs.unused, &dentry->unused);
	if (++vfs.unused_count > core.ram.count) /* with their inodes a fifth of RAM at most */
		free_with_parents(CONTAINER(vfs.unused.next, struct dentry, unused));
}

void dentry_forget(struct super *super)
{
	bool again = true;

	while (again) {
		again = false;
		LIST_EACH(at, &vfs.unused) {
			struct dentry *dentry = CONTAINER(at, struct dentry, unused);

			if (dentry->super != super)
				continue;
			free_with_parents(dentry);
			again = true;
			break;
		}
	}
}

void dentry_drop_all(struct super *super)
{
	struct dentry *at = super->root, *parent;

	while (at != super->root || !list_empty(&at->children)) {
		if (!list_empty(&at->children)) {
			at = CONTAINER(at->children.next, struct dentry, siblings);
			continue;
		}
		parent = at->parent;
		dentry_unhash(at);
		at = parent;
	}
}

struct dentry *dentry_find(struct dentry *parent, const char *name, u64 size)
{
	u32 hash = name_hash(parent, name, size);

	for (struct table_entry *at = table_first(&vfs.names, hash); at; at = at->next) {
		struct dentry *dentry = CONTAINER(at, struct dentry, by_name);

		if (at->hash != hash || dentry->parent != parent || dentry->name_size != size)
			continue;
		if (bytes_equal(dentry->name, name, size)) {
			dentry_get(dentry);
			return dentry;
		}
	}
	return NULL;
}

/* Add to the table and to the end of the directory: 0 or -ENOMEM, for the first name of all only. */
static int enter_directory(struct dentry *dentry)
{
	int error = table_add(&vfs.names, &dentry->by_name, name_hash(dentry->parent, dentry->name, dentry->name_size));

	if (error)
		return error;
	dentry->hashed = true;
	dentry->cookie = dentry->super->next_cookie++;
	list_add(&dentry->parent->children, &dentry->siblings);
	return 0;
}

int dentry_hash(struct dentry *dentry)
{
	int error;

	if (dentry->hashed)
		return 0;
	error = enter_directory(dentry);
	if (!error && dentry->super->pinned)
		dentry_get(dentry);
	return error;
}

void dentry_unhash(struct dentry *dentry)
{
	if (!dentry->hashed)
		return;
	leave_directory(dentry);
	if (dentry->super->pinned)
		dentry_put(dentry);
	else if (!dentry->references)
		free_with_parents(dentry);
}

static void swap_names(struct dentry *a, struct dentry *b)
{
	char *a_name = a->name == a->short_name ? b->short_name : a->name;
	char *b_name = b->name == b->short_name ? a->short_name : b->name;
	u8 size = a->name_size;

	for (u32 i = 0; i < SHORT_NAME; i++) {
		char c = a->short_name[i];

		a->short_name[i] = b->short_name[i];
		b->short_name[i] = c;
	}
	a->name = b_name;
	b->name = a_name;
	a->name_size = b->name_size;
	b->name_size = size;
}

static void swap_parents(struct dentry *a, struct dentry *b)
{
	struct dentry *parent = a->parent;

	a->parent = b->parent;
	b->parent = parent;
}

void dentry_move(struct dentry *dentry, struct dentry *to)
{
	dentry_unhash(to);
	leave_directory(dentry);
	swap_names(dentry, to);
	swap_parents(dentry, to);
	enter_directory(dentry);
}

void dentry_exchange(struct dentry *a, struct dentry *b)
{
	leave_directory(a);
	leave_directory(b);
	swap_names(a, b);
	swap_parents(a, b);
	enter_directory(a);
	enter_directory(b);
}

/* Whether a dentry is an ancestor of another, or the same. */
bool dentry_above(const struct dentry *above, const struct dentry *dentry)
{
	for (;; dentry = dentry->parent) {
		if (dentry == above)
			return true;
		if (dentry->parent == dentry)
			return false;
	}
}

/*
 * The name of a path, from a root: it ends at the end of `to`. Where it starts there, or -ERANGE. *reachable is false
 * for a path that does not lie below the root.
 */
s64 path_name(const struct path *path, const struct path *root, char *to, u64 size, bool *reachable)
{
	const struct dentry *at = path->dentry;
	const struct mount *mount = path->mount;
	u64 start = size - 1;

	to[start] = 0;
	*reachable = true;
	while (at != root->dentry || mount != root->mount) {
		if (at->parent == at || (mount && at == mount->root)) {
			if (!mount || at != mount->root || !mount->parent) {
				*reachable = false;
				break;
			}
			at = mount->point;
			mount = mount->parent;
			continue;
		}
		if (start < (u64)at->name_size + 1)
			return -ERANGE;
		start -= at->name_size;
		bytes_copy(to + start, at->name, at->name_size);
		to[--start] = '/';
		at = at->parent;
	}
	if (to[start])
		return (s64)start;
	if (!start)
		return -ERANGE;
	to[--start] = '/';
	return (s64)start;
}

/* A path as /proc shows it, without a zero: its size. */
s64 path_show(const struct path *path, char *to, u64 size)
{
	static const char gone[] = " (deleted)";
	struct dentry *dentry = path->dentry;
	char *page = page_buffer();
	struct text text = { .data = NULL };
	bool reachable;
	s64 at;

	if (!page)
		return -ENOMEM;
	if (dentry->label) {
		text_put(&text, dentry->label);
		if (dentry->label[0] == '/')
			text_put(&text, dentry->name);
		else if (dentry->label[0] != 'a') {
			text_put(&text, ":[");
			text_number(&text, dentry->inode->number);
			text_put(&text, "]");
		}
	} else {
		at = path_name(path, &caller_fs()->root, page, PAGE, &reachable);
		if (at >= 0)
			text_put(&text, page + at);
	}
	page_free(page);
	if (dentry->label ? dentry->label[0] == '/' : dentry->parent != dentry && !dentry->hashed)
		text_put(&text, gone);
	at = (s64)(text.size < size ? text.size : size);
	bytes_copy(to, text.data, (u64)at);
	text_free(&text);
	return at;
}
