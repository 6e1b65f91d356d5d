// SPDX-License-Identifier: Apache-2.0
/* System calls that move bytes. */
#include "../clock.h"
#include "calls.h"

s64 inode_may_write(struct inode *inode, struct io *from, u64 position)
{
	u64 limit = core.current ? core.current->process->limits[RLIMIT_FSIZE].current : ~0ull;

	if (!from->left)
		return 0;
	if (inode->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return -EPERM;
	if (position >= limit) {
		signal_raise(core.current, SIGXFSZ);
		return -EFBIG;
	}
	if (limit > MOST_OFFSET)
		limit = MOST_OFFSET;
	if (position >= limit)
		return -EFBIG;
	if (from->left > limit - position)
		from->left = limit - position;
	if (inode->seals & F_SEAL_GROW && position + from->left > inode->size) {
		u64 end = page_down(inode->size); /* the last page is written whole or not at all */

		if (position >= end)
			return -EPERM;
		from->left = end - position;
	}
	return 0;
}

s64 file_seek(struct file *file, s64 offset, u32 whence)
{
	s64 size = (s64)file->inode->size;

	switch (whence) {
	case SEEK_SET: break;
	case SEEK_CUR: offset += (s64)file->position; break;
	case SEEK_END: offset += size; break;
	case SEEK_DATA:
		if (offset < 0 || offset >= size)
			return -ENXIO;
		break;
	case SEEK_HOLE:
		if (offset < 0 || offset >= size)
			return -ENXIO;
		offset = size;
		break;
	default: return -EINVAL;
	}
	return offset < 0 ? -EINVAL : offset;
}

/* The calendar's time, at most a second too early: to read the clock takes a twentieth of a short read. */
static s64 recent_seconds(void)
{
	static u64 read_at;
	static s64 seconds;
	const u64 now = call_began();

	if (now - read_at > SECOND || !seconds) {
		read_at = now;
		seconds = time_real().seconds;
	}
	return seconds;
}

/* As relatime: update the access time if it is older than a change, or than a day. */
void file_accessed(struct file *file)
{
	struct inode *inode = file->inode;

	if (file->flags & O_NOATIME || file->path.mount->flags & MS_NOATIME || mount_writable(file->path.mount))
		return;
	if (time_before(&inode->accessed, &inode->modified) || time_before(&inode->accessed, &inode->changed) ||
	    recent_seconds() - inode->accessed.seconds >= 24 * 3600)
		inode->accessed = time_real();
}

/* -- files and vectors -- */

static inline s64 check(const struct file *file, bool write)
{
	if (!file || !(write ? file->writable : file->readable))
		return -EBADF;
	if (S_ISDIR(file->inode->mode))
		return 0; /* which reads find out later */
	return (write ? file->operations->write : file->operations->read) ? 0 : -EINVAL;
}

s64 file_transfer(struct file *file, struct io *io, u64 *position, bool write)
{
	s64 done;

	if (write) {
		done = file->operations->write(file, io, position);
		if (done > 0)
			file_notify(file, IN_MODIFY);
		return done;
	}
	done = file->operations->read(file, io, position);
	if (done >= 0 && S_ISREG(file->inode->mode))
		file_accessed(file);
	if (done > 0)
		file_notify(file, IN_ACCESS);
	return done;
}

/* Whether so many bytes, at the file's own position or at another, end behind the largest offset. */
static inline bool ends_too_far(const struct file *file, const u64 *at, u64 size)
{
	return (at ? *at : file->position) + size > MOST_OFFSET;
}

/* At the file's own position, or at another. */
static s64 transfer(struct file *file, struct io *io, const u64 *at, bool write)
{
	u64 position = at ? *at : file->position;
	s64 done = file_transfer(file, io, &position, write);

	if (!at && done >= 0 && !file->stream)
		file->position = position;
	return done;
}

static s64 move(struct task *t, const u64 *args, const u64 *at, bool write)
{
	struct file *file = fd_file(t, args[0]);
	struct iovec vector = { args[1], args[2] };
	struct io io = { .mm = t->mm, .vectors = &vector };
	s64 error = check(file, write);

	if (error)
		return error;
	if (!user_range(vector.base, vector.size))
		return -EFAULT;
	if ((s64)args[2] < 0 || ends_too_far(file, at, args[2]))
		return -EINVAL;
	if (S_ISDIR(file->inode->mode))
		return -EISDIR;
	io.left = vector.size < MAX_RW_COUNT ? vector.size : MAX_RW_COUNT;
	return transfer(file, &io, at, write);
}

s64 sys_read(struct task *t, const u64 *args)
{
	return move(t, args, NULL, false);
}

s64 sys_write(struct task *t, const u64 *args)
{
	return move(t, args, NULL, true);
}

static s64 move_at(struct task *t, const u64 *args, bool write)
{
	struct file *file = fd_file(t, args[0]);

	if ((s64)args[3] < 0)
		return -EINVAL;
	if (!file || file->flags & O_PATH)
		return -EBADF;
	return file_has_position(file) ? move(t, args, &args[3], write) : -ESPIPE;
}

s64 sys_pread64(struct task *t, const u64 *args)
{
	return move_at(t, args, false);
}

s64 sys_pwrite64(struct task *t, const u64 *args)
{
	return move_at(t, args, true);
}

/* -- vectors -- */

static struct iovec *vector_at(struct vectors *vectors, u64 count, u64 i)
{
	const u64 per_page = VECTORS_PER_PAGE;

	return count > VECTORS_FEW ? &vectors->pages[i / per_page][i % per_page] : &vectors->few[i];
}

static s64 vectors_check(struct vectors *vectors, u64 count)
{
	u64 total = 0;

	for (u64 i = 0; i < count; i++)
		if ((s64)vector_at(vectors, count, i)->size < 0)
			return -EINVAL; /* of any, before addresses are looked at */
	for (u64 i = 0; i < count; i++) {
		struct iovec *v = vector_at(vectors, count, i);

		if (!user_range(v->base, v->size))
			return -EFAULT;
		if (v->size > MAX_RW_COUNT - total)
			v->size = MAX_RW_COUNT - total;
		total += v->size;
	}
	return (s64)total;
}

/* The error for vectors that cannot be read as a whole: Linux checks each before it reads the next one. */
static s64 vectors_error(struct task *t, u64 from, u64 count)
{
	struct iovec vector;

	for (u64 i = 0; i < count; i++, from += sizeof(vector)) {
		if (user_read(t->mm, &vector, from, sizeof(vector)))
			break;
		if ((s64)vector.size < 0)
			return -EINVAL;
	}
	return -EFAULT;
}

/* Copy vectors and check them: how many bytes, at most MAX_RW_COUNT, or -errno. vectors_free() in any case. */
s64 vectors_get(struct task *t, struct vectors *vectors, u64 from, u64 count)
{
	vectors->first = vectors->few;
	if (count > IOV_MAX)
		return -EINVAL;
	if (count <= VECTORS_FEW) {
		if (user_read(t->mm, vectors->few, from, count * sizeof(struct iovec)))
			return vectors_error(t, from, count);
		return vectors_check(vectors, count);
	}
	for (u64 i = 0; i * VECTORS_PER_PAGE < count; i++) {
		u64 start = i * VECTORS_PER_PAGE, part = count - start;

		if (part > VECTORS_PER_PAGE)
			part = VECTORS_PER_PAGE;
		vectors->pages[i] = page_alloc();
		if (!vectors->pages[i])
			return -ENOMEM;
		if (i)
			vectors->pages[i - 1][VECTORS_PER_PAGE] = (struct iovec){ (u64)vectors->pages[i], IO_LINK };
		if (user_read(t->mm, vectors->pages[i], from + start * sizeof(struct iovec), part * sizeof(struct iovec)))
			return vectors_error(t, from, count);
	}
	vectors->first = vectors->pages[0];
	return vectors_check(vectors, count);
}

void vectors_free(struct vectors *vectors)
{
	for (u32 i = 0; i < ARRAY_SIZE(vectors->pages); i++)
		page_free(vectors->pages[i]);
}

enum { RWF_HIPRI = 1, RWF_NOWAIT = 8, RWF_APPEND = 16, RWF_NOAPPEND = 32, RWF_KNOWN = 63 };

/* Flags of one call. */
static s64 check_flags(struct file *file, u32 flags, bool write)
{
	bool simple = S_ISDIR(file->inode->mode) ||
		      (write ? file->operations->write_simple : file->operations->no_read_flags);

	if (flags & ~(u32)RWF_KNOWN || (simple && flags & ~(u32)RWF_HIPRI))
		return -EOPNOTSUPP;
	if (flags & RWF_APPEND && flags & RWF_NOAPPEND)
		return -EINVAL;
	return flags & RWF_NOWAIT && !file->operations->nowait ? -EOPNOTSUPP : 0;
}

/* The same as transfer(), with flags for this call. */
static s64 transfer_with(struct file *file, struct io *io, const u64 *at, bool write, u32 flags)
{
	if (S_ISDIR(file->inode->mode))
		return -EISDIR;
	io->with = (flags & RWF_APPEND ? O_APPEND : 0) | (flags & RWF_NOWAIT ? O_NONBLOCK : 0);
	io->without = flags & RWF_NOAPPEND ? O_APPEND : 0;
	return transfer(file, io, at, write);
}

/* One write for each vector, until all bytes of the io are written, or fewer than a vector has. */
static s64 write_each(struct file *file, const struct io *all, u32 flags)
{
	const struct iovec *vector = all->vectors;
	u64 total = 0;

	while (total < all->left) {
		struct io io = { .mm = all->mm, .vectors = vector, .left = vector->size };
		s64 done;

		if (vector->size == IO_LINK) {
			vector = (const struct iovec *)vector->base;
			continue;
		}
		done = transfer_with(file, &io, NULL, true, flags);
		if (done < 0)
			return total ? (s64)total : done;
		total += (u64)done;
		if ((u64)done < vector++->size)
			break;
	}
	return (s64)total;
}

static s64 move_vectors(struct task *t, const u64 *args, const u64 *at, bool write, u32 flags)
{
	struct file *file = fd_file(t, args[0]);
	struct vectors vectors = { .first = NULL };
	struct io io = { .mm = t->mm };
	s64 done = check(file, write);

	if (done)
		return done;
	done = vectors_get(t, &vectors, args[1], (u32)args[2]); /* of which Linux takes 32 bits */
	if (done > 0) {
		s64 error = ends_too_far(file, at, (u64)done) ? -EINVAL : check_flags(file, flags, write);

		io.vectors = vectors.first;
		io.left = (u64)done;
		if (error)
			done = error;
		else if (write && file->operations->write_simple)
			done = write_each(file, &io, flags);
		else
			done = transfer_with(file, &io, at, write, flags);
	}
	vectors_free(&vectors);
	return done;
}

s64 sys_readv(struct task *t, const u64 *args)
{
	return move_vectors(t, args, NULL, false, 0);
}

s64 sys_writev(struct task *t, const u64 *args)
{
	return move_vectors(t, args, NULL, true, 0);
}

static s64 move_vectors_at(struct task *t, const u64 *args, bool write, u32 flags)
{
	struct file *file = fd_file(t, args[0]);

	if ((s64)args[3] < 0)
		return -EINVAL;
	if (!file || file->flags & O_PATH)
		return -EBADF;
	return file_has_position(file) ? move_vectors(t, args, &args[3], write, flags) : -ESPIPE;
}

s64 sys_preadv(struct task *t, const u64 *args)
{
	return move_vectors_at(t, args, false, 0);
}

s64 sys_pwritev(struct task *t, const u64 *args)
{
	return move_vectors_at(t, args, true, 0);
}

/* With flags; a position of -1 is the file's own. */
static s64 move_vectors2(struct task *t, const u64 *args, bool write)
{
	u32 flags = (u32)args[5];

	return (s64)args[3] == -1 ? move_vectors(t, args, NULL, write, flags) : move_vectors_at(t, args, write, flags);
}

s64 sys_preadv2(struct task *t, const u64 *args)
{
	return move_vectors2(t, args, false);
}

s64 sys_pwritev2(struct task *t, const u64 *args)
{
	return move_vectors2(t, args, true);
}

s64 sys_lseek(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);
	s64 at;

	if (!file || file->flags & O_PATH)
		return -EBADF;
	if ((u32)args[2] > SEEK_HOLE)
		return -EINVAL;
	if (file->stream)
		return -ESPIPE;
	at = file->operations->seek ? file->operations->seek(file, (s64)args[1], (u32)args[2])
				    : file_seek(file, (s64)args[1], (u32)args[2]);
	if (at >= 0)
		file->position = (u64)at;
	return at;
}
