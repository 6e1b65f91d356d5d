// SPDX-License-Identifier: Apache-2.0
/* The content of files: a cache of pages, and what goes to the server. */
#include "fuse.h"

enum { WRITE_MOST = FUSE_IO_PAGES * PAGE, LEAST_AHEAD = 4, AROUND = 16 };

static u64 page_count(u64 size)
{
	return (size + PAGE - 1) / PAGE;
}

/* -- the cache -- */

static void drop(struct inode *inode, u64 index, void *page)
{
	struct fuse_node *node = fuse_node_of(inode);

	tree_set(&node->pages, index, NULL);
	tree_set(&node->dirty, index, NULL);
	page_free(page);
	fuse_of(inode)->pages--;
	if (!--node->page_count)
		list_remove(&node->recent);
}

/* Drop at most `count` clean pages that no mapping uses, those of the least recently used files first: how many. */
static u64 drop_clean(struct fuse *fuse, u64 count)
{
	u64 dropped = 0;

	LIST_EACH_SAFE(at, after, &fuse->recent) {
		struct fuse_node *node = CONTAINER(at, struct fuse_node, recent);
		u64 index = 0;
		void *page;

		while (dropped < count && (page = tree_next(&node->pages, &index, ~0ull))) {
			if (!page_is_shared(page_offset(page)) && !tree_get(&node->dirty, index)) {
				drop(node->inode, index, page);
				dropped++;
			}
			index++;
		}
		if (dropped == count)
			break;
	}
	return dropped;
}

bool fuse_reclaim(void)
{
	enum { AT_ONCE = 64 };

	return !fuse_root->growing && (drop_clean(fuse_root, AT_ONCE) || fuse_reclaim_listing(fuse_root));
}

/* Make room for `count` pages. */
static void shrink(struct fuse *fuse, u32 count)
{
	if (fuse->pages + count > fuse->most_pages)
		drop_clean(fuse, fuse->pages + count - fuse->most_pages);
}

/* As tree_set(); what it allocates does not come from the cache, since the tree must not change meanwhile. */
static int grow(struct inode *inode, struct tree *tree, u64 index, void *page)
{
	struct fuse *fuse = fuse_of(inode);
	int error;

	fuse->growing = true;
	error = tree_set(tree, index, page);
	fuse->growing = false;
	return error;
}

static void keep(struct inode *inode, u64 index, void *page)
{
	struct fuse_node *node = fuse_node_of(inode);

	if (tree_get(&node->pages, index) || grow(inode, &node->pages, index, page)) {
		page_free(page);
		return;
	}
	fuse_of(inode)->pages++;
	node->page_count++;
}

static void used(struct inode *inode)
{
	struct fuse_node *node = fuse_node_of(inode);

	list_remove(&node->recent);
	if (node->page_count)
		list_add(&fuse_of(inode)->recent, &node->recent);
}

void fuse_cut(struct inode *inode, u64 from, u64 end)
{
	struct fuse_node *node = fuse_node_of(inode);
	u64 index = from / PAGE, last = end == ~0ull ? ~0ull : page_count(end);
	void *page = from % PAGE ? tree_get(&node->pages, index) : NULL;

	if (page && last == ~0ull) { /* the page in which the file ends now */
		bytes_zero((u8 *)page + from % PAGE, PAGE - from % PAGE);
		index++;
	}
	while ((page = tree_next(&node->pages, &index, last)))
		drop(inode, index++, page);
}

/* -- from the server -- */

/* How many pages to read from one on: more and more of a file that is read from the start to the end. */
static u32 read_ahead(struct inode *inode, u64 index)
{
	struct fuse_node *node = fuse_node_of(inode);
	u64 left = page_count(inode->size) - index, count;

	node->window = index == node->next_index && node->window ? node->window * 2 : LEAST_AHEAD;
	if (node->window > FUSE_IO_PAGES)
		node->window = FUSE_IO_PAGES;
	count = node->window < left ? node->window : left;
	for (u64 i = 1; i < count; i++)
		if (tree_get(&node->pages, index + i))
			count = i;
	node->next_index = index + count;
	return (u32)count;
}

/* Read into pages that are not in the cache yet; return the number of bytes. A small file is open for one request only. */
static s64 read_into(struct inode *inode, u64 index, const struct segment *pages, u32 count)
{
	struct fuse_node *node = fuse_node_of(inode);
	const bool whole = fuse_of(inode)->reads_by_node && !node->reader.open && !index && page_count(inode->size) <= count;
	int error = whole ? 0 : fuse_open_handle(inode, &node->reader, O_RDONLY | O_LARGEFILE);
	const struct fuse_io_in in = { .fh = whole ? FUSE_NO_FILE : node->reader.number, .offset = index * PAGE,
				       .size = count * PAGE };
	const struct fuse_call call = { .opcode = FUSE_READ, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in), .pages = pages, .page_count = count };

	return error ? error : fuse_call(fuse_of(inode), &call);
}

/* From one page on: of a mapping, whose pages are not used in their order, those around it. */
static u32 read_around(struct inode *inode, u64 *index)
{
	struct fuse_node *node = fuse_node_of(inode);
	u64 first = *index, end = first - first % AROUND + AROUND, last = page_count(inode->size);

	while (first % AROUND && !tree_get(&node->pages, first - 1))
		first--;
	last = last < end ? last : end;
	for (u64 i = *index + 1; i < last; i++)
		if (tree_get(&node->pages, i))
			last = i;
	*index = first;
	return (u32)(last - first);
}

static int read_pages(struct inode *inode, u64 index, bool mapped)
{
	struct segment pages[FUSE_IO_PAGES];
	struct fuse_node *node = fuse_node_of(inode);
	u32 count = mapped ? read_around(inode, &index) : read_ahead(inode, index), made = 0;
	u64 changes;
	s64 size;

	shrink(fuse_of(inode), count);
	while (made < count && (pages[made].at = page_alloc()))
		pages[made++].size = PAGE;
	if (!made)
		return -ENOMEM;
	do {
		changes = node->changes;
		size = read_into(inode, index, pages, made);
	} while (size >= 0 && changes != node->changes);
	for (u32 i = 0; i < made; i++) {
		u64 in_page = size > (s64)(i * PAGE) ? (u64)size - i * PAGE : 0;

		if (size < 0) {
			page_free(pages[i].at);
			continue;
		}
		if (in_page < PAGE)
			bytes_zero((u8 *)pages[i].at + in_page, PAGE - in_page);
		keep(inode, index + i, pages[i].at);
	}
	used(inode);
	return size < 0 ? (int)size : 0;
}

/* A page of the content, with a reference; NULL and an error. */
static void *get_page(struct inode *inode, u64 index, bool mapped, int *error)
{
	for (int tries = 0; tries < 100; tries++) {
		void *page = tree_get(&fuse_node_of(inode)->pages, index);

		if (page) {
			page_get(page_offset(page));
			*error = 0;
			return page;
		}
		*error = read_pages(inode, index, mapped);
		if (*error)
			return NULL;
	}
	*error = -ENOMEM; /* pages are dropped as fast as they come */
	return NULL;
}

static s64 page_for_mapping(struct inode *inode, u64 index, bool write)
{
	void *page;
	int error;

	if (index >= page_count(inode->size))
		return -ENXIO;
	page = get_page(inode, index, true, &error);
	if (page && write && grow(inode, &fuse_node_of(inode)->dirty, index, page))
		error = -ENOMEM;
	if (error && page)
		page_free(page);
	return error ? error : (s64)page_offset(page);
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct inode *inode = file->inode;
	u64 done = 0;
	int error = 0;

	if (fuse_of(inode)->shared && fuse_may_differ(inode))
		fuse_getattr(inode); /* what fails shows at the read of a page */
	while (to->left && *position < inode->size) {
		u64 in_page = *position % PAGE, part = PAGE - in_page, moved;
		u8 *page = get_page(inode, *position / PAGE, false, &error);

		if (!page)
			break;
		if (part > inode->size - *position)
			part = inode->size - *position;
		if (part > to->left)
			part = to->left;
		moved = io_put(to, page + in_page, part);
		page_free(page);
		*position += moved;
		done += moved;
		if (moved < part) {
			error = -EFAULT;
			break;
		}
	}
	return done ? (s64)done : error;
}

/* -- to the server -- */

static s64 send(struct inode *inode, u64 position, void *data, u32 size, bool strip)
{
	const struct segment segment = { data, size };
	struct fuse_node *node = fuse_node_of(inode);
	int error = fuse_open_handle(inode, &node->writer, O_WRONLY | O_LARGEFILE);
	const struct fuse_io_in in = { .fh = node->writer.number, .offset = position, .size = size,
				       .io_flags = strip ? FUSE_WRITE_KILL_SUIDGID : 0 };
	struct fuse_write_out out = { 0 };
	const u64 expected = fuse_of(inode)->tells_writes ? sizeof(out) : sizeof(out) - sizeof(out.attr);
	const struct fuse_call call = { .opcode = FUSE_WRITE, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in), .pages = &segment, .page_count = 1,
					.answer = &out, .answer_size = (u32)expected };
	s64 result;

	if (error)
		return error;
	node->changes++;
	node->stale = node->rewritten = true;
	result = fuse_call(fuse_of(inode), &call);
	node->changes++;
	node->stale = node->rewritten = true;
	if (result < 0)
		return result;
	if (result != (s64)expected || out.size > size)
		return -EIO;
	if (out.attr.attr.mode) { /* others are not used: they may have changed since */
		node->version = (struct timespec){ (s64)out.attr.attr.modified, out.attr.attr.modified_ns };
		node->rewritten = false;
	}
	return out.size;
}

int fuse_flush(struct inode *inode)
{
	struct fuse_node *node = fuse_node_of(inode);
	int result = 0;
	u64 index = 0;
	void *page;

	while ((page = tree_next(&node->dirty, &index, ~0ull))) {
		u64 left = index < page_count(inode->size) ? inode->size - index * PAGE : 0;
		s64 done;

		/* A program that has it mapped can change it again without being seen. */
		if (!page_is_shared(page_offset(page)))
			tree_set(&node->dirty, index, NULL);
		page_get(page_offset(page));
		done = left ? send(inode, index * PAGE, page, left < PAGE ? (u32)left : PAGE, false) : 0;
		page_free(page);
		result = done < 0 && !result ? (int)done : result;
		index++;
	}
	return result;
}

/*
 * A new page of the cache for what was written from its start, if that is all of it: a whole page, or one in which the file
 * ends.  NULL: it is not, or there is no memory.
 */
static u8 *new_page(struct inode *inode, u64 at, u64 size)
{
	u8 *page;

	if (at % PAGE || (size < PAGE && at + size < inode->size))
		return NULL;
	if (fuse_of(inode)->shared && fuse_node_of(inode)->rewritten)
		return NULL; /* a change by the host could not be told from this one */
	shrink(fuse_of(inode), 1);
	page = page_buffer();
	if (!page)
		return NULL;
	bytes_zero(page + size, PAGE - size);
	keep(inode, at / PAGE, page);
	return tree_get(&fuse_node_of(inode)->pages, at / PAGE);
}

/* The range becomes this in the cache, which does not read for it what the server has of a page. */
static void update_cache(struct inode *inode, u64 position, const u8 *data, u64 size)
{
	for (u64 done = 0; done < size;) {
		u64 at = position + done, part = PAGE - at % PAGE < size - done ? PAGE - at % PAGE : size - done;
		u8 *page = tree_get(&fuse_node_of(inode)->pages, at / PAGE);

		page = page ? page : new_page(inode, at, part);
		if (page)
			bytes_copy(page + at % PAGE, data + done, part);
		done += part;
	}
	used(inode);
}

/* What lay behind the end of the file in its last page, where a mapping may have written, becomes zeros. */
static void zero_end(struct inode *inode, u64 position)
{
	u8 *page = inode->size % PAGE ? tree_get(&fuse_node_of(inode)->pages, inode->size / PAGE) : NULL;

	if (page && position > inode->size)
		bytes_zero(page + inode->size % PAGE, PAGE - inode->size % PAGE);
}

static s64 write_part(struct inode *inode, struct io *from, u64 *position, u8 *buffer)
{
	u64 want = from->left < WRITE_MOST ? from->left : WRITE_MOST, size = io_get(from, buffer, want);
	s64 done = size ? send(inode, *position, buffer, (u32)size, !caller_capable(CAP_FSETID)) : -EFAULT;

	if (done <= 0)
		return done;
	zero_end(inode, *position);
	update_cache(inode, *position, buffer, (u64)done);
	*position += (u64)done;
	if (*position > inode->size)
		inode->size = *position;
	return (u64)done < size || size < want ? 0 : done;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct inode *inode = file->inode;
	u64 size = from->left < WRITE_MOST ? from->left : WRITE_MOST, start;
	u8 *buffer = kmalloc(size);
	s64 result = buffer ? 0 : -ENOMEM;

	inode_lock(inode);
	if (!result && io_flags(from, file) & O_APPEND)
		result = fuse_getattr(inode);
	if (!result && io_flags(from, file) & O_APPEND)
		*position = inode->size;
	start = *position;
	if (!result)
		result = inode_may_write(inode, from, *position);
	if (!result && from->left)
		while (from->left && (result = write_part(inode, from, position, buffer)) > 0)
			;
	inode_unlock(inode);
	kfree(buffer);
	return *position > start ? (s64)(*position - start) : result;
}

/* -- open files -- */

static int open(struct inode *inode, struct file *file)
{
	struct fuse_node *node = fuse_node_of(inode);

	/* The server checks again who may write; a reader's handle waits for the first page that is not known. */
	return file->writable ? fuse_open_handle(inode, &node->writer, O_WRONLY | O_LARGEFILE) : 0;
}

static void release(struct file *file)
{
	struct inode *inode = file->inode;

	if (!file->writable || inode->writers > 1)
		return;
	fuse_flush(inode);
	fuse_close_handle(inode, &fuse_node_of(inode)->writer, FUSE_RELEASE);
}

static int fsync(struct file *file, bool data_only)
{
	struct inode *inode = file->inode;
	struct fuse_node *node = fuse_node_of(inode);
	struct fuse_handle *handle = node->writer.open ? &node->writer : &node->reader;
	int error = fuse_flush(inode);
	struct fuse_fsync_in in = { .flags = data_only ? FUSE_FSYNC_DATA : 0 };
	const struct fuse_call call = { .opcode = FUSE_FSYNC, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in) };

	if (!error && !handle->open)
		error = fuse_open_handle(inode, handle, O_RDONLY | O_LARGEFILE);
	in.fh = handle->number;
	error = error ? error : (int)fuse_call(fuse_of(inode), &call);
	error = error ? error : node->error; /* what was posted before has been answered */
	node->error = 0;
	return error;
}

static s64 fallocate(struct file *file, u32 mode, u64 offset, u64 size)
{
	enum { KEEP_SIZE = 1 };
	struct inode *inode = file->inode;
	struct fuse_node *node = fuse_node_of(inode);
	const struct fuse_fallocate_in in = { .fh = node->writer.number, .offset = offset, .size = size, .mode = mode };
	const struct fuse_call call = { .opcode = FUSE_FALLOCATE, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in) };
	s64 error;

	inode_lock(inode);
	error = mode ? 0 : inode_may_grow(inode, offset + size);
	if (!error)
		error = fuse_flush(inode);
	node->changes++;
	error = error ? error : fuse_call(fuse_of(inode), &call);
	node->changes++;
	node->stale = node->rewritten = true;
	if (!error && mode & ~(u32)KEEP_SIZE)
		fuse_cut(inode, page_down(offset), offset + size);
	if (!error && !(mode & KEEP_SIZE) && offset + size > inode->size)
		inode->size = offset + size;
	inode_unlock(inode);
	return error == -ENOSYS ? -EOPNOTSUPP : error;
}

static s64 seek(struct file *file, s64 offset, u32 whence)
{
	struct inode *inode = file->inode;
	struct fuse_node *node = fuse_node_of(inode);
	struct fuse_lseek_in in = { .offset = (u64)offset, .whence = whence };
	u64 found;
	const struct fuse_call call = { .opcode = FUSE_LSEEK, .node = node->id, .arguments = &in,
					.arguments_size = sizeof(in), .answer = &found, .answer_size = sizeof(found) };
	s64 error;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return file_seek(file, offset, whence);
	error = fuse_flush(inode);
	if (!error)
		error = fuse_open_handle(inode, &node->reader, O_RDONLY | O_LARGEFILE);
	in.fh = node->reader.number;
	if (!error)
		error = fuse_call(fuse_of(inode), &call);
	if (error < 0)
		return error;
	return error == sizeof(found) ? (s64)found : -EIO;
}

static int may_map(struct file *file, u32 prot, u32 flags)
{
	(void)file, (void)prot, (void)flags;
	return 0;
}

const struct inode_operations fuse_file_inode_operations = {
	.page = page_for_mapping,
	.open = open,
	FUSE_ATTRIBUTES,
};

const struct file_operations fuse_file_operations = {
	.read = read,
	.write = write,
	.seek = seek,
	.fsync = fsync,
	.fallocate = fallocate,
	.mmap = may_map,
	.release = release,
};
