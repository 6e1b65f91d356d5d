// SPDX-License-Identifier: Apache-2.0
/*
 * Entries of directories.  The server sends them with their attributes, which saves a lookup of each.
 *
 * Where it allows that, the entries of a directory are kept once a program has read all of them, until the sandbox
 * changes the directory or their memory is needed.  A program that reads kept entries continues with the same ones after
 * a change, until it starts again: entries that stay come once, whatever comes and goes meanwhile.
 */
#include "fuse.h"

enum { BUFFER = 64 << 10, MOST_ENTRY = sizeof(struct fuse_dirent) + NAME_MAX + 8 };

/* -- kept entries -- */

/* An entry; zeros follow its name up to a multiple of 8. */
struct kept {
	u64 inode, next;
	u8 type, size;
	char name[];
};

/* Entries that lie in a row: a page of them at most. */
struct part {
	struct part *next;
	u32 size;
	u8 entries[];
};

struct listing {
	u32 references; /* of its directory, and of files that read it */
	struct fuse *fuse;
	struct inode *directory; /* NULL: it is not kept */
	struct list recent;
	u64 bytes;
	struct part *first, **end;
};

static u64 kept_size(u64 name_size)
{
	return (__builtin_offsetof(struct kept, name) + name_size + 7) & ~7ull;
}

static void listing_put(struct listing *listing)
{
	struct part *part, *next;

	if (!listing || !reference_put(&listing->references))
		return;
	for (part = listing->first; part; part = next) {
		next = part->next;
		kfree(part);
	}
	listing->fuse->listing_bytes -= listing->bytes;
	kfree(listing);
}

static struct listing *listing_new(struct fuse *fuse)
{
	struct listing *listing = kmalloc(sizeof(*listing));

	if (!listing)
		return NULL;
	listing->references = 1;
	listing->fuse = fuse;
	listing->bytes = sizeof(*listing);
	fuse->listing_bytes += listing->bytes;
	listing->end = &listing->first;
	list_init(&listing->recent);
	return listing;
}

/* The entries of a directory, with a reference; NULL: they are not known. */
static struct listing *listing_of(const struct inode *directory)
{
	struct listing *listing = fuse_node_of(directory)->listing;

	if (!listing)
		return NULL;
	reference_get(&listing->references);
	list_remove(&listing->recent);
	list_add(&listing->fuse->listings, &listing->recent);
	return listing;
}

/* They are the directory's from now on. Takes the reference. */
static void keep(struct inode *directory, struct listing *listing)
{
	fuse_forget_entries(directory);
	fuse_node_of(directory)->listing = listing;
	listing->directory = directory;
	list_add(&listing->fuse->listings, &listing->recent);
}

void fuse_forget_entries(struct inode *directory)
{
	struct listing *listing = fuse_node_of(directory)->listing;

	if (!listing)
		return;
	fuse_node_of(directory)->listing = NULL;
	listing->directory = NULL;
	list_remove(&listing->recent);
	listing_put(listing);
}

bool fuse_reclaim_listing(struct fuse *fuse)
{
	LIST_EACH(at, &fuse->listings) {
		struct listing *listing = CONTAINER(at, struct listing, recent);

		if (listing->references > 1) /* a program reads it */
			continue;
		fuse_forget_entries(listing->directory);
		return true;
	}
	return false;
}

/* Memory for entries: NULL if all of them would be too much, or those of this directory alone most of that. */
static struct part *part_new(struct listing *listing, u64 entries)
{
	enum { SMALL = 2016 }; /* kmalloc() has pages for what is larger */
	struct fuse *fuse = listing->fuse;
	u64 size = sizeof(struct part) + entries, bytes = size > SMALL ? PAGE : size;
	struct part *part;

	if (listing->bytes + bytes > fuse->most_listing_bytes / 2)
		return NULL;
	while (fuse->listing_bytes + bytes > fuse->most_listing_bytes)
		if (!fuse_reclaim_listing(fuse))
			return NULL;
	part = buffer_alloc(size);
	if (!part)
		return NULL;
	fuse->listing_bytes += bytes;
	listing->bytes += bytes;
	*part = (struct part){ .size = (u32)entries };
	*listing->end = part;
	listing->end = &part->next;
	return part;
}

/* -- open directories -- */

struct reader {
	struct fuse_handle handle;
	bool begun;
	u64 next;    /* the cookie of the entry that comes next */
	u64 changes; /* of the directory, before its entries came from the server */
	/* An answer of the server; or kept entries, which are read instead. */
	u8 *answer;
	u32 at, size;
	bool last; /* the server had no more entries */
	struct listing *listing;
	struct part *part;
	u32 part_at;
	struct listing *collected; /* all entries so far, of a directory that is read from its start */
	u64 collected_changes; /* of the directory, before the first of them came */
};

int fuse_open_directory(struct inode *inode, struct file *file)
{
	struct reader *reader = kmalloc(sizeof(*reader));
	int error = reader ? 0 : -ENOMEM;

	if (reader && !fuse_node_of(inode)->listing)
		error = fuse_open_handle(inode, &reader->handle, O_RDONLY | O_DIRECTORY);
	if (error)
		kfree(reader);
	else
		file->data = reader;
	return error;
}

static void release(struct file *file)
{
	struct reader *reader = file->data;

	fuse_close_handle(file->inode, &reader->handle, FUSE_RELEASEDIR);
	listing_put(reader->listing);
	listing_put(reader->collected);
	kfree(reader->answer);
	kfree(reader);
}

/* The entry that comes next of an answer, and its size there; NULL: the answer has ended, or is damaged. */
static struct fuse_dirent *next_entry(const struct reader *reader, u32 at, u64 *size)
{
	u64 left = reader->size - at;
	struct fuse_dirent *entry;

	if (left < sizeof(*entry))
		return NULL;
	entry = (struct fuse_dirent *)(reader->answer + at);
	if (!entry->name_size || entry->name_size > NAME_MAX)
		return NULL;
	*size = (sizeof(*entry) + entry->name_size + 7) & ~7ull;
	return *size <= left ? entry : NULL;
}

/* -- collecting -- */

/* How many bytes the entries need that fit into a page, from one of the answer on. */
static u64 part_size(const struct reader *reader, u32 at)
{
	const struct fuse_dirent *entry;
	u64 size, needed = 0;

	while ((entry = next_entry(reader, at, &size))) {
		if (sizeof(struct part) + needed + kept_size(entry->name_size) > PAGE)
			break;
		needed += kept_size(entry->name_size);
		at += (u32)size;
	}
	return needed;
}

/* Copy entries of the answer into a part until it is full: where the answer continues, or 0. */
static u32 fill_part(const struct reader *reader, u32 at, struct part *part)
{
	for (u32 used = 0; used < part->size;) {
		struct kept *kept = (struct kept *)(part->entries + used);
		u64 size, whole;
		const struct fuse_dirent *entry = next_entry(reader, at, &size);

		if (!entry->next) /* a program that is there starts again */
			return 0;
		whole = kept_size(entry->name_size);
		bytes_zero(kept, whole);
		*kept = (struct kept){ .inode = entry->inode, .next = entry->next, .type = (u8)entry->type,
				       .size = (u8)entry->name_size };
		bytes_copy(kept->name, entry + 1, entry->name_size);
		used += (u32)whole;
		at += (u32)size;
	}
	return at;
}

/* Collect the entries of an answer; false: they cannot be kept. */
static bool collect(struct reader *reader)
{
	u64 size;

	for (u32 at = 0; at < reader->size;) {
		struct part *part;

		if (!next_entry(reader, at, &size))
			return false;
		part = part_new(reader->collected, part_size(reader, at));
		at = part ? fill_part(reader, at, part) : 0;
		if (!at)
			return false;
	}
	return true;
}

static void stop_collecting(struct reader *reader)
{
	listing_put(reader->collected);
	reader->collected = NULL;
}

/* An answer has come: its entries are kept with those before it, unless the directory has changed since the first one. */
static void collect_answer(struct inode *directory, struct reader *reader)
{
	struct listing *collected = reader->collected;

	if (!collected)
		return;
	if (reader->collected_changes != fuse_node_of(directory)->changes || !collect(reader)) {
		stop_collecting(reader);
	} else if (!reader->size || reader->last) {
		reader->collected = NULL;
		keep(directory, collected);
	}
}

/* -- reading -- */

/* Whether the entries may be kept: the host changes them only if the server does not allow it. */
static bool may_keep(const struct inode *directory, const struct fuse_handle *handle)
{
	return handle->flags & FUSE_OPEN_CACHE_DIR && !fuse_of(directory)->shared;
}

static int fill(struct file *file, struct reader *reader)
{
	struct fuse_node *node = fuse_node_of(file->inode);
	const struct fuse_io_in in = { .fh = reader->handle.number, .offset = file->position, .size = BUFFER };
	struct segment segment = { NULL, BUFFER };
	const struct fuse_call call = { .opcode = FUSE_READDIRPLUS, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in), .pages = &segment, .page_count = 1 };
	s64 size;

	if (!reader->answer)
		reader->answer = kmalloc(BUFFER);
	if (!reader->answer)
		return -ENOMEM;
	segment.at = reader->answer;
	reader->changes = node->changes;
	size = fuse_call(fuse_of(file->inode), &call);
	reader->at = 0;
	reader->size = size > 0 ? (u32)size : 0;
	reader->last = size > 0 && BUFFER - (u64)size > MOST_ENTRY; /* the server fills the buffer, unless that is all */
	reader->next = in.offset;
	if (size < 0)
		stop_collecting(reader);
	else
		collect_answer(file->inode, reader);
	return size < 0 ? (int)size : 0;
}

static const struct kept *kept_entry(const struct reader *reader)
{
	return reader->part ? (const struct kept *)(reader->part->entries + reader->part_at) : NULL;
}

static void skip_kept(struct reader *reader, const struct kept *kept)
{
	reader->next = kept->next;
	reader->part_at += (u32)kept_size(kept->size);
	if (reader->part_at < reader->part->size)
		return;
	reader->part = reader->part->next;
	reader->part_at = 0;
}

/* Continue with kept entries behind the one that ends at a position; false: there is none. */
static bool find_kept(struct reader *reader, u64 position)
{
	const struct kept *kept;

	reader->part = reader->listing->first;
	reader->part_at = 0;
	reader->next = 0;
	while (reader->next != position && (kept = kept_entry(reader)))
		skip_kept(reader, kept);
	return reader->next == position;
}

/* A program starts to read, starts again, or continues elsewhere. */
static int start_at_position(struct file *file, struct reader *reader)
{
	struct inode *inode = file->inode;
	int error = 0;

	stop_collecting(reader);
	if (!file->position || !reader->listing) {
		listing_put(reader->listing);
		reader->listing = listing_of(inode);
	}
	if (reader->listing && !find_kept(reader, file->position)) {
		listing_put(reader->listing);
		reader->listing = NULL;
	}
	reader->at = reader->size = 0;
	reader->last = false;
	reader->next = file->position;
	reader->changes = fuse_node_of(inode)->changes;
	if (!reader->listing)
		error = fuse_open_handle(inode, &reader->handle, O_RDONLY | O_DIRECTORY);
	reader->begun = !error;
	if (error || reader->listing || file->position || !may_keep(inode, &reader->handle))
		return error;
	reader->collected = listing_new(fuse_of(inode));
	reader->collected_changes = reader->changes;
	return 0;
}

static int read_kept(struct file *file, struct reader *reader, struct entries *entries)
{
	const struct kept *kept;

	while ((kept = kept_entry(reader))) {
		if (!entries_put(entries, kept->name, kept->size, kept->inode, kept->type, kept->next))
			break;
		skip_kept(reader, kept);
		file->position = reader->next;
	}
	return 0;
}

/* The name and the inode are known from now on, unless an entry has come or gone since the server was asked. */
static void note(struct dentry *directory, u64 changes, const struct fuse_entry *entry, const char *name, u64 size)
{
	struct inode *inode = fuse_inode(fuse_of(directory->inode), entry);
	struct dentry *dentry;

	if (!inode || changes != fuse_node_of(directory->inode)->changes) {
		inode_put(inode);
		return;
	}
	dentry = dentry_find(directory, name, size);
	if (dentry && dentry->inode == inode) {
		inode_put(inode);
		dentry_put(dentry);
		return;
	}
	if (dentry) {
		dentry_unhash(dentry);
		dentry_put(dentry);
	}
	dentry = dentry_new(directory, name, size);
	if (!dentry) {
		inode_put(inode);
		return;
	}
	dentry_attach(dentry, inode);
	dentry_hash(dentry); /* without memory for it, the next lookup is a request to the server */
	dentry_put(dentry);
}

static int read_answers(struct file *file, struct reader *reader, struct entries *entries)
{
	for (;;) {
		u64 size = 0;
		struct fuse_dirent *entry = next_entry(reader, reader->at, &size);
		const char *name;

		if (!entry) {
			int error = reader->last && reader->at == reader->size ? 0 : fill(file, reader);

			entry = error ? NULL : next_entry(reader, reader->at, &size);
			if (!entry)
				return error;
		}
		name = (const char *)(entry + 1);
		if (entry->entry.node) {
			note(file->path.dentry, reader->changes, &entry->entry, name, entry->name_size);
			entry->entry.node = 0; /* its lookup is counted */
		}
		if (!entries_put(entries, name, entry->name_size, entry->inode, entry->type, entry->next))
			return 0;
		reader->at += (u32)size;
		file->position = reader->next = entry->next;
	}
}

static int readdir(struct file *file, struct entries *entries)
{
	struct reader *reader = file->data;
	const bool continues = reader->begun && file->position == reader->next &&
			       (file->position || reader->changes == fuse_node_of(file->inode)->changes);
	int error = continues ? 0 : start_at_position(file, reader);

	if (error)
		return error;
	return reader->listing ? read_kept(file, reader, entries) : read_answers(file, reader, entries);
}

const struct file_operations fuse_directory_file_operations = {
	.readdir = readdir,
	.seek = directory_seek,
	.fsync = file_sync_nothing,
	.release = release,
};
