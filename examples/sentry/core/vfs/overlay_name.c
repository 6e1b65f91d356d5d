// SPDX-License-Identifier: Apache-2.0
/*
 * Names in an overlay: lookup, creation, removal and rename.
 *
 * The upper layer is a tmpfs, whose operations do not sleep.  A new file and the whiteout that it replaces have the same
 * name for a moment, so that nothing is lost when there is no room for the file.
 */
#include "overlay.h"

#include "walk.h"

/* -- lookup -- */

/* Add a file of a lower layer; takes the reference. True: search the layers below it, too. */
static bool add_part(struct found *found, struct layer *layer, struct dentry *dentry, bool more)
{
	bool is_directory = dentry->inode && S_ISDIR(dentry->inode->mode);

	if (!dentry->inode) {
		dentry_put(dentry);
		return true;
	}
	if (is_whiteout(dentry->inode) || (!is_directory && (found->upper || found->count))) {
		dentry_put(dentry);
		return false;
	}
	found->parts[found->count++] = (struct part){ layer, dentry };
	return is_directory && more && !is_opaque(dentry->inode);
}

static int find_lower(struct overlay_node *directory, const char *name, u64 size, struct found *found)
{
	for (u32 i = 0; i < directory->count; i++) {
		struct dentry *dentry;
		int error = layer_lookup(directory->parts[i].dentry, name, size, &dentry);

		if (error)
			return error;
		if (!add_part(found, directory->parts[i].layer, dentry, i + 1 < directory->count))
			break;
	}
	return 0;
}

static int find(struct overlay_node *directory, const char *name, u64 size, struct found *found)
{
	struct overlay *overlay = overlay_of(directory->inode);
	struct dentry *upper = NULL;
	int error;

	if (directory->upper) {
		error = layer_lookup(directory->upper, name, size, &upper);
		if (error)
			return error;
		if (upper->inode && !is_whiteout(upper->inode)) {
			found->upper = upper;
			if (!S_ISDIR(upper->inode->mode) || overlay_find(overlay, upper->inode) || is_opaque(upper->inode))
				return 0;
		} else {
			bool hidden = upper->inode;

			dentry_put(upper);
			if (hidden)
				return 0;
		}
	}
	return find_lower(directory, name, size, found);
}

static void name_inode(struct dentry *dentry, struct inode *inode)
{
	dentry_attach(dentry, inode);
	overlay_node_of(inode)->alias = dentry;
}

static int lookup(struct inode *directory, struct dentry *dentry)
{
	struct found found = { .upper = NULL };
	int error = find(overlay_node_of(directory), dentry->name, dentry->name_size, &found);
	struct inode *inode;

	if (error || (!found.upper && !found.count)) {
		overlay_found_put(&found);
		return error;
	}
	inode = overlay_inode(overlay_of(directory), &found);
	if (!inode)
		return -ENOMEM;
	name_inode(dentry, inode);
	return 0;
}

/* -- new names -- */

enum kind { NODE, DIRECTORY, LINK, SECOND };

struct making {
	enum kind kind;
	u32 mode;
	u64 device;
	const char *target;
	struct inode *inode; /* of the upper layer, for a second name */
};

static int make_upper(struct inode *directory, struct dentry *dentry, const struct making *making)
{
	const struct inode_operations *operations = directory->operations;

	switch (making->kind) {
	case NODE: return operations->create(directory, dentry, making->mode, making->device);
	case DIRECTORY: return operations->mkdir(directory, dentry, making->mode);
	case LINK: return operations->symlink(directory, dentry, making->target);
	case SECOND: return operations->link(making->inode, directory, dentry);
	}
	return -EINVAL;
}

/* Nothing of a lower layer shows in this directory. */
static int set_opaque(struct inode *upper)
{
	return upper->operations->setxattr(upper, OVERLAY_OPAQUE, "y", 1, 0);
}

/* Make a name in an upper directory, which is locked, in the place of a whiteout or of none. */
static int make_in(struct dentry *upper, const struct dentry *name, const struct making *making, struct dentry **result)
{
	struct dentry *old = NULL, *new;
	int error = upper->inode->dead ? -ENOENT : dentry_lookup(upper, name->name, name->name_size, &old);

	if (error)
		return error;
	if (old->inode && !is_whiteout(old->inode)) {
		dentry_put(old);
		return -EEXIST;
	}
	new = old->inode ? dentry_new(upper, name->name, name->name_size) : old;
	error = new ? make_upper(upper->inode, new, making) : -ENOMEM;
	if (!error && old->inode && new != old && making->kind == DIRECTORY) {
		error = set_opaque(new->inode);
		if (error)
			layer_remove(upper->inode, new);
	}
	if (!error && new != old)
		layer_remove(upper->inode, old);
	if (new != old)
		dentry_put(old);
	if (error)
		dentry_put(new);
	else
		*result = new;
	return error;
}

/* A name in the upper part of a directory: a reference. */
static int make(struct inode *directory, const struct dentry *name, const struct making *making, struct dentry **result)
{
	struct overlay_node *node = overlay_node_of(directory);
	int error = overlay_copy_up(directory);

	if (error)
		return error;
	inode_lock(node->upper->inode);
	error = make_in(node->upper, name, making, result);
	inode_unlock(node->upper->inode);
	if (!error && making->kind == DIRECTORY && node->counted && directory->links > 1)
		directory->links++;
	overlay_apply(directory);
	return error;
}

static int make_new(struct inode *directory, struct dentry *dentry, const struct making *making)
{
	struct found found = { .upper = NULL };
	int error = make(directory, dentry, making, &found.upper);
	struct inode *inode;

	if (error)
		return error;
	inode = overlay_inode(overlay_of(directory), &found);
	if (!inode)
		return -ENOMEM; /* the name is there: the next lookup finds it */
	name_inode(dentry, inode);
	return dentry_hash(dentry);
}

static int create(struct inode *directory, struct dentry *dentry, u32 mode, u64 device)
{
	if (S_ISCHR(mode) && !device)
		return -EPERM; /* it would be a whiteout */
	return make_new(directory, dentry, &(struct making){ .kind = NODE, .mode = mode, .device = device });
}

static int mkdir(struct inode *directory, struct dentry *dentry, u32 mode)
{
	return make_new(directory, dentry, &(struct making){ .kind = DIRECTORY, .mode = mode });
}

static int symlink(struct inode *directory, struct dentry *dentry, const char *target)
{
	return make_new(directory, dentry, &(struct making){ .kind = LINK, .target = target });
}

/* Another name for a file, in the upper layer. */
static int second_name(struct inode *inode, struct inode *directory, const struct dentry *name, struct dentry **upper)
{
	int error = overlay_copy_up(inode);

	if (error)
		return error;
	return make(directory, name, &(struct making){ .kind = SECOND, .inode = overlay_real(overlay_node_of(inode)) },
		    upper);
}

static int link(struct inode *inode, struct inode *directory, struct dentry *dentry)
{
	struct dentry *upper;
	int error = second_name(inode, directory, dentry, &upper);

	if (error)
		return error;
	dentry_put(upper);
	inode_get(inode);
	name_inode(dentry, inode);
	if (overlay_node_of(inode)->counted)
		inode->links++;
	overlay_apply(inode);
	return dentry_hash(dentry);
}

static int tmpfile(struct inode *directory, u32 mode, struct inode **result)
{
	struct found found = { .upper = NULL };
	int error = overlay_copy_up(directory);
	struct dentry *upper = error ? NULL : overlay_node_of(directory)->upper;
	struct inode *inode;

	if (error)
		return error;
	error = upper->inode->operations->tmpfile(upper->inode, mode, &inode);
	if (error)
		return error;
	found.upper = dentry_new(upper, "#", 1);
	if (!found.upper) {
		inode_put(inode);
		return -ENOMEM;
	}
	dentry_attach(found.upper, inode);
	*result = overlay_inode(overlay_of(directory), &found);
	return *result ? 0 : -ENOMEM;
}

/* -- removal -- */

/* Whether a name would show something below if the upper layer had none. */
static int is_below(struct overlay_node *directory, const struct dentry *dentry)
{
	struct found found = { .upper = NULL };
	int error = find_lower(directory, dentry->name, dentry->name_size, &found);
	int some = found.count != 0;

	overlay_found_put(&found);
	return error ? error : some;
}

static const struct making whiteout = { .kind = NODE, .mode = S_IFCHR };

/* Empty a directory that showed no entries a moment ago; -ENOTEMPTY: one was added meanwhile. */
static int drop_whiteouts(struct dentry *directory)
{
	int error = 0;

	inode_lock(directory->inode);
	LIST_EACH(at, &directory->children)
		if (!is_whiteout(CONTAINER(at, struct dentry, siblings)->inode))
			error = -ENOTEMPTY;
	LIST_EACH_SAFE(at, after, &directory->children)
		if (!error)
			layer_remove(directory->inode, CONTAINER(at, struct dentry, siblings));
	inode_unlock(directory->inode);
	return error;
}

/* Remove a name from an upper directory, which is locked, and leave a whiteout there if something is below. */
static int remove_in(struct dentry *upper, const struct dentry *name, bool is_directory, bool below)
{
	struct dentry *old, *new = NULL;
	int error = dentry_lookup(upper, name->name, name->name_size, &old);

	if (error)
		return error;
	if (below && !is_whiteout(old->inode)) {
		new = old->inode ? dentry_new(upper, name->name, name->name_size) : old;
		error = new ? make_upper(upper->inode, new, &whiteout) : -ENOMEM;
		if (new && new != old)
			dentry_put(new);
	}
	if (!error && old->inode && new != old && !is_whiteout(old->inode)) {
		error = is_directory ? drop_whiteouts(old) : 0;
		if (!error)
			layer_remove(upper->inode, old);
		else if (new)
			layer_remove(upper->inode, new);
	}
	dentry_put(old);
	return error;
}

/* A file loses a name. */
static void drop_link(struct dentry *dentry, bool is_directory)
{
	struct inode *inode = dentry->inode;
	struct overlay_node *node = overlay_node_of(inode);

	if (node->alias == dentry)
		node->alias = NULL;
	if (node->count)
		overlay_count(inode);
	overlay_apply(inode);
	if (node->counted)
		inode->links = is_directory || !inode->links ? 0 : inode->links - 1;
	if (!inode->links)
		overlay_release(inode);
}

static int remove(struct inode *directory, struct dentry *dentry, bool is_directory)
{
	struct overlay_node *node = overlay_node_of(directory);
	int below = is_below(node, dentry), error = below < 0 ? below : 0;

	if (!error && is_directory)
		error = overlay_is_empty(dentry);
	if (!error)
		error = overlay_copy_up(directory);
	if (error)
		return error;
	inode_lock(node->upper->inode);
	error = remove_in(node->upper, dentry, is_directory, below);
	inode_unlock(node->upper->inode);
	if (error)
		return error;
	drop_link(dentry, is_directory);
	if (is_directory && node->counted && directory->links > 2)
		directory->links--;
	overlay_apply(directory);
	return 0;
}

static int unlink(struct inode *directory, struct dentry *dentry)
{
	return remove(directory, dentry, false);
}

static int rmdir(struct inode *directory, struct dentry *dentry)
{
	return remove(directory, dentry, true);
}

/* -- rename -- */

struct side {
	struct inode *directory;
	struct dentry *dentry;
	struct dentry *upper; /* the name in the upper layer: a reference */
	int below;
	bool is_directory;
};

/* Find the name in the upper layer, or make it there. */
static int name_above(struct side *side)
{
	struct overlay_node *directory = overlay_node_of(side->directory);
	struct inode *inode = side->dentry->inode;
	int error = overlay_copy_up(inode);

	if (error)
		return error;
	error = layer_lookup(directory->upper, side->dentry->name, side->dentry->name_size, &side->upper);
	if (error || side->upper->inode == overlay_real(overlay_node_of(inode)))
		return error;
	dentry_put(side->upper);
	side->upper = NULL;
	return second_name(inode, side->directory, side->dentry, &side->upper);
}

/* As on Linux, a directory of a lower layer cannot move, unless a scratch layer keeps its node. */
static int may_move(const struct side *side)
{
	const struct overlay_node *node = overlay_node_of(side->dentry->inode);

	return side->is_directory && node->count && !overlay_of(side->directory)->scratch ? -EXDEV : 0;
}

static int prepare(struct side *side, bool moves)
{
	int error;

	side->is_directory = side->dentry->inode && S_ISDIR(side->dentry->inode->mode);
	side->below = is_below(overlay_node_of(side->directory), side->dentry);
	error = side->below < 0 ? side->below : moves ? may_move(side) : 0;
	if (!error)
		error = overlay_copy_up(side->directory);
	if (error)
		return error;
	if (moves)
		return name_above(side);
	if (side->is_directory)
		error = overlay_is_empty(side->dentry);
	return error;
}

/* A directory that only the upper layer has must hide what is below its new place. */
static int hide_below(const struct side *side, const struct side *place)
{
	struct overlay_node *node = overlay_node_of(side->dentry->inode);

	return side->is_directory && !node->count && place->below ? set_opaque(node->upper->inode) : 0;
}

/* Move within the upper layer, whose directories are locked. A directory in the new place has no entries. */
static int move(struct side *from, struct side *to)
{
	struct inode *old = overlay_node_of(from->directory)->upper->inode, *new;
	struct dentry *directory = overlay_node_of(to->directory)->upper, *left = NULL;
	int error = dentry_lookup(directory, to->dentry->name, to->dentry->name_size, &to->upper);

	new = directory->inode;
	if (!error && from->below)
		error = (left = dentry_new(from->upper->parent, from->upper->name, from->upper->name_size)) ?
				make_upper(old, left, &whiteout) : -ENOMEM;
	if (!error && to->upper->inode && from->is_directory && is_whiteout(to->upper->inode)) {
		layer_remove(new, to->upper); /* not to be replaced by a directory */
		dentry_put(to->upper);
		to->upper = NULL;
		error = dentry_lookup(directory, to->dentry->name, to->dentry->name_size, &to->upper);
	} else if (!error && to->upper->inode && to->is_directory) {
		error = drop_whiteouts(to->upper);
	}
	if (!error)
		error = old->operations->rename(old, from->upper, new, to->upper, 0);
	if (!error)
		dentry_move(from->upper, to->upper);
	else if (left && left->inode)
		layer_remove(old, left);
	dentry_put(left);
	return error;
}

static int exchange(struct side *from, struct side *to)
{
	struct inode *old = overlay_node_of(from->directory)->upper->inode;
	struct inode *new = overlay_node_of(to->directory)->upper->inode;
	int error = old->operations->rename(old, from->upper, new, to->upper, RENAME_EXCHANGE);

	if (!error)
		dentry_exchange(from->upper, to->upper);
	return error;
}

/* Update the counts of links after a move. */
static void count_moved(const struct side *from, const struct side *to, bool exchanged)
{
	struct overlay_node *old = overlay_node_of(from->directory), *new = overlay_node_of(to->directory);
	s64 moved = from->is_directory - (exchanged ? to->is_directory : 0);

	if (old->counted && from->directory->links > 1)
		from->directory->links -= (u64)moved;
	if (new->counted && to->directory->links > 1)
		to->directory->links += (u64)(moved - (!exchanged && to->is_directory));
	if (!exchanged && to->dentry->inode)
		drop_link(to->dentry, to->is_directory);
	overlay_apply(from->directory);
	overlay_apply(to->directory);
	overlay_apply(from->dentry->inode);
	if (to->dentry->inode)
		overlay_apply(to->dentry->inode);
}

/* Whether a name can move to a directory. The upper layer may have been changed without the overlay in the meantime. */
static int check_place(const struct side *from, const struct side *to)
{
	struct dentry *old = overlay_node_of(from->directory)->upper, *new = overlay_node_of(to->directory)->upper;
	struct dentry *now = dentry_find(old, from->dentry->name, from->dentry->name_size);

	dentry_put(now);
	if (now != from->upper)
		return -ESTALE;
	if (new->inode->dead)
		return -ENOENT;
	return dentry_above(now, new) ? -EINVAL : 0;
}

static int rename(struct inode *old_directory, struct dentry *from, struct inode *directory, struct dentry *to, u32 flags)
{
	struct side a = { .directory = old_directory, .dentry = from }, b = { .directory = directory, .dentry = to };
	bool exchanged = flags & RENAME_EXCHANGE;
	int error = prepare(&a, true);

	if (!error)
		error = prepare(&b, exchanged);
	if (!error)
		error = hide_below(&a, &b);
	if (!error && exchanged)
		error = hide_below(&b, &a);
	if (!error) {
		struct mutex *first = &overlay_node_of(old_directory)->upper->inode->mutex;
		struct mutex *second = &overlay_node_of(directory)->upper->inode->mutex;

		mutex_lock_two(first, second);
		error = check_place(&a, &b);
		if (!error && exchanged)
			error = check_place(&b, &a);
		if (!error)
			error = exchanged ? exchange(&a, &b) : move(&a, &b);
		mutex_unlock_two(first, second);
	}
	if (!error)
		count_moved(&a, &b, exchanged);
	dentry_put(a.upper);
	dentry_put(b.upper);
	return error;
}

const struct inode_operations overlay_directory_operations = {
	.lookup = lookup,
	.create = create,
	.mkdir = mkdir,
	.symlink = symlink,
	.link = link,
	.unlink = unlink,
	.rmdir = rmdir,
	.rename = rename,
	.tmpfile = tmpfile,
	.open = overlay_open_directory,
	OVERLAY_ATTRIBUTES,
};
