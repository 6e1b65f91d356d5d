// SPDX-License-Identifier: Apache-2.0
/*
 * Entries of directories in an overlay.  A directory of a single layer is read from there.  The entries of a merged one
 * are collected when a program starts to read them, and keep their positions until it starts again.
 */
#include "overlay.h"

#include "walk.h"

/* An entry of several layers. */
struct record {
	struct table_entry by_name;
	u64 number;
	u8 type, size;
	bool hidden;
	char name[];
};

struct listing {
	struct table names;
	struct tree records; /* by their places */
	u64 count, shown;
};

/* The state of an open directory. */
struct reading {
	struct file *real;	 /* of the only layer */
	struct listing *listing; /* of several */
	struct dentry *upper;	 /* that of real, if it is the upper layer; borrowed from there */
	u64 bits;
};

/* -- entries of several layers -- */

struct collector {
	struct entries entries;
	struct overlay *overlay;
	struct listing *listing;
	struct dentry *directory; /* of the layer */
	bool upper;
	u64 bits;
};

static bool is_dots(const char *name, u64 size)
{
	return name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'));
}

static struct record *find(struct listing *listing, const char *name, u64 size, u32 hash)
{
	for (struct table_entry *at = table_first(&listing->names, hash); at; at = at->next) {
		struct record *record = CONTAINER(at, struct record, by_name);

		if (at->hash == hash && record->size == size && bytes_equal(record->name, name, size))
			return record;
	}
	return NULL;
}

/* Number of an entry and whether it is a whiteout. The directory of the layer is locked. */
static int examine(struct collector *collector, struct record *record)
{
	struct dentry *dentry;
	int error;

	if (!collector->upper && record->type != DT_CHR)
		return 0;
	error = dentry_lookup(collector->directory, record->name, record->size, &dentry);
	if (error)
		return error;
	record->hidden = is_whiteout(dentry->inode);
	if (collector->upper && dentry->inode)
		record->number = overlay_number(collector->overlay, dentry->inode);
	dentry_put(dentry);
	return 0;
}

static bool collect(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie)
{
	struct collector *collector = CONTAINER(entries, struct collector, entries);
	struct listing *listing = collector->listing;
	u32 hash = hash_bytes(name, size, 0);
	struct record *record;

	(void)cookie;
	if (is_dots(name, size) || find(listing, name, size, hash))
		return true;
	record = kmalloc(sizeof(*record) + size + 1);
	entries->error = record ? table_add(&listing->names, &record->by_name, hash) : -ENOMEM;
	if (entries->error) {
		kfree(record);
		return false;
	}
	bytes_copy(record->name, name, size);
	record->size = (u8)size;
	record->type = (u8)type;
	record->number = collector->bits | inode;
	entries->error = tree_set(&listing->records, listing->count, record);
	if (entries->error) {
		table_remove(&listing->names, &record->by_name);
		kfree(record);
		return false;
	}
	listing->count++;
	entries->error = examine(collector, record);
	listing->shown += !record->hidden;
	return !entries->error;
}

static void listing_free(struct listing *listing)
{
	for (u64 i = 0; i < listing->count; i++) {
		struct record *record = tree_get(&listing->records, i);

		table_remove(&listing->names, &record->by_name);
		tree_set(&listing->records, i, NULL);
		kfree(record);
	}
	table_free(&listing->names);
	kfree(listing);
}

static int read_all(struct file *real, struct entries *entries)
{
	int error;

	inode_lock(real->inode);
	error = real->operations->readdir ? real->operations->readdir(real, entries) : -ENOTDIR;
	inode_unlock(real->inode);
	return error ? error : entries->error;
}

static int collect_layer(struct overlay *overlay, struct listing *listing, const struct path *path, bool upper, u64 bits)
{
	struct collector collector = { .entries = { .put = collect }, .overlay = overlay, .listing = listing,
				       .directory = path->dentry, .upper = upper, .bits = bits };
	struct file *real;
	int error = file_open(path, O_RDONLY | O_DIRECTORY | O_LARGEFILE, &real);

	if (error)
		return error;
	real->flags |= O_PATH;
	error = read_all(real, &collector.entries);
	file_put(real);
	return error;
}

static int listing_new(struct overlay_node *node, struct listing **result)
{
	struct overlay *overlay = overlay_of(node->inode);
	struct listing *listing = kmalloc(sizeof(*listing));
	int error = listing ? 0 : -ENOMEM;

	if (listing && node->upper) {
		const struct path path = { overlay->upper.root.mount, node->upper };

		error = collect_layer(overlay, listing, &path, true, overlay->upper.bits);
	}
	for (u32 i = 0; !error && i < node->count; i++) {
		const struct part *part = &node->parts[i];
		const struct path path = { part->layer->root.mount, part->dentry };

		error = collect_layer(overlay, listing, &path, false, part->layer->bits);
	}
	if (error && listing)
		listing_free(listing);
	else
		*result = listing;
	return error;
}

int overlay_is_empty(struct dentry *dentry)
{
	struct listing *listing;
	int error = listing_new(overlay_node_of(dentry->inode), &listing);

	if (error)
		return error;
	error = listing->shown ? -ENOTEMPTY : 0;
	listing_free(listing);
	return error;
}

/* -- open directories -- */

int overlay_open_directory(struct inode *inode, struct file *file)
{
	(void)inode;
	file->data = kmalloc(sizeof(struct reading));
	return file->data ? 0 : -ENOMEM;
}

static void stop(struct reading *reading)
{
	file_put(reading->real);
	if (reading->listing)
		listing_free(reading->listing);
	*reading = (struct reading){ .real = NULL };
}

static void release(struct file *file)
{
	stop(file->data);
	kfree(file->data);
}

static int start(struct file *file, struct reading *reading)
{
	struct overlay_node *node = overlay_node_of(file->inode);
	struct overlay *overlay = overlay_of(file->inode);
	struct dentry *upper = node->upper; /* which can come while the other layer is opened */
	int error;

	stop(reading);
	if (overlay_is_merged(node))
		return listing_new(node, &reading->listing);
	reading->real = overlay_open_real(node, overlay_real(node), O_RDONLY | O_DIRECTORY | O_LARGEFILE, &error);
	if (!reading->real)
		return error;
	reading->upper = upper;
	reading->bits = upper ? overlay->upper.bits : node->parts[0].layer->bits;
	return 0;
}

static int show_listing(struct file *file, struct listing *listing, struct entries *entries)
{
	struct record *record;

	if (!entries_put_dots(file, entries))
		return 0;
	for (; file->position - 2 < listing->count; file->position++) {
		record = tree_get(&listing->records, file->position - 2);
		if (!record->hidden && !entries_put(entries, record->name, record->size, record->number, record->type,
						    file->position + 1))
			return 0;
	}
	return 0;
}

struct relay {
	struct entries entries;
	struct entries *to;
	struct file *file;
};

/* An entry of the only layer. */
static bool pass_on(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie)
{
	struct relay *relay = CONTAINER(entries, struct relay, entries);
	const struct reading *reading = relay->file->data;
	struct dentry *dentry = relay->file->path.dentry, *upper;

	if (is_dots(name, size)) {
		inode = size == 1 ? dentry->inode->number : dentry->parent->inode->number;
		return entries_put(relay->to, name, size, inode, type, cookie);
	}
	upper = reading->upper ? dentry_find(reading->upper, name, size) : NULL;
	if (!upper)
		return entries_put(relay->to, name, size, reading->bits | inode, type, cookie);
	if (is_whiteout(upper->inode)) {
		dentry_put(upper);
		return true;
	}
	inode = overlay_number(overlay_of(dentry->inode), upper->inode);
	dentry_put(upper);
	return entries_put(relay->to, name, size, inode, type, cookie);
}

static int readdir(struct file *file, struct entries *entries)
{
	struct reading *reading = file->data;
	struct relay relay = { .entries = { .put = pass_on }, .to = entries, .file = file };
	int error = 0;

	if (!file->position || (!reading->real && !reading->listing))
		error = start(file, reading);
	if (error)
		return error;
	if (reading->listing)
		return show_listing(file, reading->listing, entries);
	reading->real->position = file->position;
	error = read_all(reading->real, &relay.entries);
	file->position = reading->real->position;
	return error;
}

const struct file_operations overlay_directory_file_operations = {
	.readdir = readdir,
	.seek = directory_seek,
	.fsync = file_sync_nothing,
	.release = release,
};
