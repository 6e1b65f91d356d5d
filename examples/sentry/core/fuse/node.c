// SPDX-License-Identifier: Apache-2.0
/* The files that are known, their attributes, and what is open at the server. */
#include "fuse.h"

enum { SECOND = 1000000000 };

static struct slab nodes = SLAB(struct fuse_node);

struct fuse *fuse_of(const struct inode *inode)
{
	return inode->super->data;
}

struct fuse_node *fuse_node_of(const struct inode *inode)
{
	return inode->data;
}

static u32 id_hash(u64 id)
{
	return hash_bytes(&id, sizeof(id), 0);
}

static struct fuse_node *find(struct fuse *fuse, u64 id)
{
	for (struct table_entry *at = table_first(&fuse->nodes, id_hash(id)); at; at = at->next) {
		struct fuse_node *node = CONTAINER(at, struct fuse_node, by_id);

		if (node->id == id)
			return node;
	}
	return NULL;
}

/* Drop cached pages if the host's version of the file differs and this sandbox did not cause the change. */
static void compare_version(struct inode *inode, const struct fuse_attr *attr)
{
	struct fuse_node *node = fuse_node_of(inode);
	const struct timespec version = { (s64)attr->modified, attr->modified_ns };
	u64 index = 0;
	bool known = bytes_equal(&node->version, &version, sizeof(version)) && inode->size == attr->size;

	if (!known && !node->rewritten && node->page_count && !tree_next(&node->dirty, &index, ~0ull)) {
		node->changes++;
		mm_replace(inode);
		fuse_cut(inode, 0, ~0ull);
	}
	node->version = version;
	node->rewritten = false;
}

void fuse_apply(struct inode *inode, const struct fuse_attr *attr)
{
	if (fuse_of(inode)->shared && S_ISREG(inode->mode))
		compare_version(inode, attr);
	inode->number = attr->inode;
	inode->size = attr->size;
	inode->blocks = attr->blocks;
	inode->accessed = (struct timespec){ (s64)attr->accessed, attr->accessed_ns };
	inode->modified = (struct timespec){ (s64)attr->modified, attr->modified_ns };
	inode->changed = (struct timespec){ (s64)attr->changed, attr->changed_ns };
	inode->mode = attr->mode;
	inode->links = attr->links;
	inode->user = attr->user;
	inode->group = attr->group;
	inode->device = attr->device;
	inode->block_size = attr->block_size;
	fuse_node_of(inode)->stale = false;
	fuse_node_of(inode)->stale_at = fuse_of(inode)->shared ? monotonic_now() + SECOND : 0;
}

static void choose_operations(struct inode *inode)
{
	inode->operations = &fuse_special_operations;
	if (S_ISREG(inode->mode)) {
		inode->operations = &fuse_file_inode_operations;
		inode->file_operations = &fuse_file_operations;
	} else if (S_ISDIR(inode->mode)) {
		inode->operations = &fuse_directory_operations;
		inode->file_operations = &fuse_directory_file_operations;
	} else if (S_ISLNK(inode->mode)) {
		inode->operations = &fuse_link_operations;
	}
}

static void forget(struct fuse *fuse, u64 id, u64 lookups)
{
	const struct fuse_forget_in in = { .lookups = lookups };
	const struct fuse_call call = { .opcode = FUSE_FORGET, .node = id, .arguments = &in, .arguments_size = sizeof(in) };

	if (lookups && id != FUSE_ROOT)
		fuse_post(fuse, &call);
}

struct inode *fuse_inode(struct fuse *fuse, const struct fuse_entry *entry)
{
	struct fuse_node *node = find(fuse, entry->node);
	struct inode *inode;

	if (node) {
		node->lookups++;
		inode_get(node->inode);
		if (fuse->shared || node->stale)
			fuse_apply(node->inode, &entry->attr);
		return node->inode;
	}
	node = slab_alloc(&nodes);
	inode = node ? inode_new(fuse->super, entry->attr.mode) : NULL;
	if (!inode || table_add(&fuse->nodes, &node->by_id, id_hash(entry->node))) {
		if (node)
			slab_free(&nodes, node);
		inode_put(inode);
		forget(fuse, entry->node, 1);
		return NULL;
	}
	list_init(&node->recent);
	node->inode = inode;
	node->id = entry->node;
	node->lookups = 1;
	inode->data = node;
	fuse_apply(inode, &entry->attr);
	choose_operations(inode);
	return inode;
}

void fuse_evict(struct inode *inode)
{
	struct fuse_node *node = fuse_node_of(inode);
	struct fuse *fuse = fuse_of(inode);

	if (!node)
		return;
	table_remove(&fuse->nodes, &node->by_id); /* first: what follows may sleep */
	fuse_flush(inode);			    /* no caller is left to report an error to */
	fuse_close_handle(inode, &node->reader, FUSE_RELEASE);
	fuse_close_handle(inode, &node->writer, FUSE_RELEASE);
	fuse_cut(inode, 0, ~0ull);
	forget(fuse, node->id, node->lookups);
	fuse_forget_entries(inode);
	kfree(node->target);
	slab_free(&nodes, node);
}

/* -- attributes -- */

bool fuse_may_differ(const struct inode *inode)
{
	const u64 until = fuse_node_of(inode)->stale_at;

	return until && (monotonic_now() >= until || until <= fuse_of(inode)->refreshed + SECOND);
}

bool fuse_is_stale(const struct inode *inode)
{
	return fuse_node_of(inode)->stale || fuse_may_differ(inode);
}

int fuse_getattr(struct inode *inode)
{
	const struct fuse_getattr_in in = { 0 };
	struct fuse_attr_out out;
	const struct fuse_call call = { .opcode = FUSE_GETATTR, .node = fuse_node_of(inode)->id, .arguments = &in,
					.arguments_size = sizeof(in), .answer = &out, .answer_size = sizeof(out) };
	s64 size;

	if (!fuse_is_stale(inode))
		return 0;
	size = fuse_call(fuse_of(inode), &call);
	if (size < 0)
		return (int)size;
	if (size != sizeof(out) || (out.attr.mode ^ inode->mode) & S_IFMT)
		return -EIO;
	fuse_apply(inode, &out.attr);
	return 0;
}

void fuse_failed(struct fuse *fuse, u64 id, int error)
{
	struct fuse_node *node = find(fuse, id);

	if (node) {
		node->error = error;
		node->stale = true;
	}
}

/*
 * Whether the server will do this, as far as is known: to a file that was made here, by its owner, who gives it to nobody
 * else.
 */
static bool is_certain(const struct inode *inode, const struct attributes *new)
{
	const u32 set_ids = S_ISUID | S_ISGID;

	return fuse_node_of(inode)->made && !fuse_may_differ(inode) && inode->user == caller_user() &&
	       !(new->which & ATTR_SIZE) && !(inode->mode & set_ids) && !(new->which & ATTR_MODE && new->mode & set_ids) &&
	       !(new->which & ATTR_USER && new->user != inode->user) &&
	       !(new->which & ATTR_GROUP && new->group != inode->group);
}

/* What the server is about to do. The time of the change is its own. */
static void expect(struct inode *inode, const struct attributes *new)
{
	if (new->which & ATTR_MODE)
		inode->mode = (inode->mode & S_IFMT) | (new->mode & 07777);
	if (new->which & ATTR_ACCESSED)
		inode->accessed = new->accessed;
	if (new->which & ATTR_MODIFIED)
		inode->modified = fuse_node_of(inode)->version = new->modified;
	fuse_node_of(inode)->stale = true;
}

int fuse_setattr(struct inode *inode, const struct attributes *new)
{
	struct fuse_node *node = fuse_node_of(inode);
	const struct fuse_setattr_in in = {
		.valid = (new->which & ATTR_MODE ? FATTR_MODE : 0) | (new->which & ATTR_USER ? FATTR_USER : 0) |
			 (new->which & ATTR_GROUP ? FATTR_GROUP : 0) | (new->which & ATTR_SIZE ? FATTR_SIZE : 0) |
			 (new->which & ATTR_ACCESSED ? FATTR_ACCESSED : 0) |
			 (new->which & ATTR_MODIFIED && !(new->which & ATTR_SIZE) ? FATTR_MODIFIED : 0) |
			 (node->writer.open ? FATTR_FH : 0),
		.fh = node->writer.number, .size = new->size, .mode = (inode->mode & S_IFMT) | (new->mode & 07777),
		.user = new->user, .group = new->group,
		.accessed = (u64)new->accessed.seconds, .accessed_ns = (u32)new->accessed.nanoseconds,
		.modified = (u64)new->modified.seconds, .modified_ns = (u32)new->modified.nanoseconds,
	};
	struct fuse_attr_out out;
	const struct fuse_call call = { .opcode = FUSE_SETATTR, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in), .answer = &out, .answer_size = sizeof(out) };
	u64 old = inode->size;
	s64 size;

	if (!(in.valid & ~(u32)FATTR_FH)) {
		node->stale = true;
		return 0;
	}
	if (is_certain(inode, new) && fuse_post(fuse_of(inode), &call)) {
		expect(inode, new);
		return 0;
	}
	node->changes++;
	size = fuse_call(fuse_of(inode), &call);
	node->changes++;
	if (size < 0)
		return (int)size;
	if (size != sizeof(out) || (out.attr.mode ^ inode->mode) & S_IFMT)
		return -EIO;
	fuse_apply(inode, &out.attr);
	if (inode->size < old)
		fuse_cut(inode, inode->size, ~0ull);
	return 0;
}

/* -- handles -- */

int fuse_open_handle(struct inode *inode, struct fuse_handle *handle, u32 flags)
{
	const struct fuse_open_in in = { .flags = flags };
	struct fuse_open_out out;
	const struct fuse_call call = { .opcode = flags & O_DIRECTORY ? FUSE_OPENDIR : FUSE_OPEN,
					.node = fuse_node_of(inode)->id, .arguments = &in, .arguments_size = sizeof(in),
					.answer = &out, .answer_size = sizeof(out) };
	s64 size;

	if (handle->open)
		return 0;
	size = fuse_call(fuse_of(inode), &call);
	if (size < 0)
		return (int)size;
	if (size != sizeof(out))
		return -EIO;
	if (handle->open) { /* another task was faster */
		struct fuse_handle second = { true, out.fh, 0 };

		fuse_close_handle(inode, &second, flags & O_DIRECTORY ? FUSE_RELEASEDIR : FUSE_RELEASE);
		return 0;
	}
	*handle = (struct fuse_handle){ true, out.fh, out.flags };
	return 0;
}

void fuse_close_handle(struct inode *inode, struct fuse_handle *handle, u32 opcode)
{
	const struct fuse_release_in in = { .fh = handle->number };
	const struct fuse_call call = { .opcode = opcode, .node = fuse_node_of(inode)->id, .arguments = &in,
					.arguments_size = sizeof(in) };

	if (!handle->open)
		return;
	handle->open = false;
	fuse_post(fuse_of(inode), &call);
}

/* -- extended attributes -- */

static s64 get(struct inode *inode, u32 opcode, const char *name, void *value, u64 size)
{
	const struct fuse_xattr_in in = { .size = size < XATTR_SIZE_MAX ? (u32)size : XATTR_SIZE_MAX };
	struct fuse_xattr_out out;
	const struct fuse_call call = { .opcode = opcode, .node = fuse_node_of(inode)->id, .arguments = &in,
					.arguments_size = sizeof(in), .names = { name }, .answer = size ? value : &out,
					.answer_size = size ? in.size : (u32)sizeof(out) };
	s64 result = fuse_call(fuse_of(inode), &call);

	if (result < 0 || size)
		return result == -ENOSYS ? -EOPNOTSUPP : result;
	return result == sizeof(out) ? (s64)out.size : -EIO;
}

s64 fuse_getxattr(struct inode *inode, const char *name, void *value, u64 size)
{
	return get(inode, FUSE_GETXATTR, name, value, size);
}

s64 fuse_listxattr(struct inode *inode, char *names, u64 size)
{
	return get(inode, FUSE_LISTXATTR, NULL, names, size);
}

int fuse_setxattr(struct inode *inode, const char *name, const void *value, u64 size, u32 flags)
{
	const struct fuse_xattr_in in = { .size = (u32)size, .flags = flags };
	const struct fuse_call call = { .opcode = FUSE_SETXATTR, .node = fuse_node_of(inode)->id, .arguments = &in,
					.arguments_size = sizeof(in), .names = { name }, .data = value,
					.data_size = (u32)size };

	fuse_node_of(inode)->stale = true;
	return (int)fuse_call(fuse_of(inode), &call);
}

int fuse_removexattr(struct inode *inode, const char *name)
{
	const struct fuse_call call = { .opcode = FUSE_REMOVEXATTR, .node = fuse_node_of(inode)->id, .names = { name } };

	fuse_node_of(inode)->stale = true;
	return (int)fuse_call(fuse_of(inode), &call);
}

const struct inode_operations fuse_special_operations = { FUSE_ATTRIBUTES };
