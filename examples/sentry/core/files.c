// SPDX-License-Identifier: Apache-2.0
/* Descriptors, the console, and the few files that there are: /dev/null, /dev/zero and /proc/self/exe. */
#include "core.h"

struct files *files_new(void)
{
	struct files *f = kmalloc(sizeof(*f));

	for (int i = 0; f && i < 3; i++) {
		f->files[i] = (struct file){ FILE_CONSOLE, i ? O_WRONLY : O_RDONLY, 1, i };
		f->fds[i].file = &f->files[i];
	}
	if (f)
		f->users = 1;
	return f;
}

struct fs_context *fs_new(void)
{
	struct fs_context *fs = kmalloc(sizeof(*fs));

	if (fs)
		*fs = (struct fs_context){ .users = 1, .umask = 022 };
	return fs;
}

struct fd *fd_get(struct task *t, u64 number)
{
	u32 fd = (u32)number; /* as Linux, which takes an unsigned int */

	return fd < FDS && t->files->fds[fd].file ? &t->files->fds[fd] : NULL;
}

static void fd_close(struct fd *fd)
{
	if (!--fd->file->users)
		fd->file->kind = FILE_NONE;
	fd->file = NULL;
}

/* How many descriptors the program may have. */
static u32 fd_limit(struct task *t)
{
	u64 limit = t->process->limits[7].current;

	return limit < FDS ? (u32)limit : FDS;
}

/* The lowest free descriptor from one on; -EMFILE. */
static s64 fd_install(struct task *t, struct file *file, u32 from, bool cloexec)
{
	for (u32 i = from; i < fd_limit(t); i++) {
		if (t->files->fds[i].file)
			continue;
		t->files->fds[i] = (struct fd){ file, cloexec };
		file->users++;
		return i;
	}
	return -EMFILE;
}

/* -- read and write -- */

/* How many bytes fit into vectors, up to the first that cannot be written. */
static u64 vector_room(struct task *t, const struct iovec *vectors, u64 count)
{
	u64 room = 0;

	for (u64 i = 0; i < count && room < sizeof(core.buffer); i++) {
		u64 rest = sizeof(core.buffer) - room, want = vectors[i].size < rest ? vectors[i].size : rest;
		u64 part = user_writable(t->mm, vectors[i].base, want);

		room += part;
		if (part < want)
			break;
	}
	return room;
}

/* One read for all vectors, whose ranges and total have been checked: a second could wait for more. */
static s64 read_file(struct task *t, struct file *file, const struct iovec *vectors, u64 count)
{
	u64 total = 0, done = 0, room;
	s64 got;

	for (u64 i = 0; i < count; i++)
		total += vectors[i].size;
	if (!total || file->kind == FILE_NULL)
		return 0;
	room = vector_room(t, vectors, count); /* before anything is read that could not be handed over */
	if (!room)
		return -EFAULT;
	if (file->kind == FILE_ZERO) {
		bytes_zero(core.buffer, room);
		got = (s64)room;
	} else {
		while (!core.ops->wait(0)) {
			s64 error = sleep_on(&core.console_input, FOREVER);

			if (error)
				return error;
		}
		got = core.ops->console_read(core.buffer, room);
	}
	if (got > (s64)room)
		return -EIO;
	for (u64 i = 0; got > 0 && done < (u64)got; i++) {
		u64 part = vectors[i].size < (u64)got - done ? vectors[i].size : (u64)got - done;

		if (user_write(t->mm, vectors[i].base, core.buffer + done, part))
			return -EFAULT;
		done += part;
	}
	return got;
}

static s64 write_file(struct task *t, struct file *file, u64 from, u64 size)
{
	u64 done = 0;

	if (!user_range(from, size))
		return -EFAULT;
	if (size > MAX_RW_COUNT)
		size = MAX_RW_COUNT;
	if (file->kind != FILE_CONSOLE)
		return (s64)size;
	while (done < size) {
		u64 rest = PAGE - (from + done) % PAGE, part = rest < size - done ? rest : size - done;
		const u8 *page = mm_page(t->mm, from + done, false);
		s64 put = page ? core.ops->console_write(file->stream, page, part) : -EFAULT;

		if (put == -EPIPE)
			signal_raise(t, SIGPIPE);
		if (put < 0)
			return done ? (s64)done : put;
		done += (u64)put;
		if ((u64)put < part)
			break;
	}
	return (s64)done;
}

s64 sys_read(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);
	struct iovec vector = { args[1], args[2] };

	if (!fd || (fd->file->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	if (!user_range(vector.base, vector.size))
		return -EFAULT;
	return read_file(t, fd->file, &vector, 1);
}

s64 sys_write(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	if (!fd || (fd->file->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	return write_file(t, fd->file, args[1], args[2]);
}

/* Copy vectors and check them: 0 or -errno. Together they have no more than MAX_RW_COUNT bytes afterwards. */
static s64 get_vectors(struct task *t, struct iovec *vectors, u64 from, u64 count)
{
	u64 total = 0;

	if (count > IOV_MAX)
		return -EINVAL;
	if (user_read(t->mm, vectors, from, count * sizeof(*vectors)))
		return -EFAULT;
	for (u64 i = 0; i < count; i++)
		if ((s64)vectors[i].size < 0)
			return -EINVAL;
	for (u64 i = 0; i < count; i++) {
		if (!user_range(vectors[i].base, vectors[i].size))
			return -EFAULT;
		if (vectors[i].size > MAX_RW_COUNT - total)
			vectors[i].size = MAX_RW_COUNT - total;
		total += vectors[i].size;
	}
	return 0;
}

s64 sys_readv(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);
	struct iovec vectors[IOV_MAX];
	s64 error;

	if (!fd || (fd->file->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	error = get_vectors(t, vectors, args[1], args[2]);
	return error ? error : read_file(t, fd->file, vectors, args[2]);
}

s64 sys_writev(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);
	struct iovec vectors[IOV_MAX];
	s64 done = 0, error;

	if (!fd || (fd->file->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	error = get_vectors(t, vectors, args[1], args[2]);
	if (error)
		return error;
	for (u64 i = 0; i < args[2]; i++) {
		s64 put = vectors[i].size ? write_file(t, fd->file, vectors[i].base, vectors[i].size) : 0;

		if (put < 0)
			return done ? done : put;
		done += put;
		if ((u64)put < vectors[i].size)
			break;
	}
	return done;
}

s64 sys_lseek(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	if (!fd)
		return -EBADF;
	if ((u32)args[2] > 4)
		return -EINVAL;
	return fd->file->kind == FILE_CONSOLE ? -ESPIPE : 0;
}

/* -- descriptors -- */

s64 sys_close(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	if (!fd)
		return -EBADF;
	fd_close(fd);
	return 0;
}

s64 sys_dup(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	return fd ? fd_install(t, fd->file, 0, false) : -EBADF;
}

static s64 dup_to(struct task *t, struct fd *fd, u32 number, bool cloexec)
{
	if (number >= fd_limit(t))
		return -EBADF;
	fd->file->users++;
	if (t->files->fds[number].file)
		fd_close(&t->files->fds[number]);
	t->files->fds[number] = (struct fd){ fd->file, cloexec };
	return number;
}

s64 sys_dup2(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	if (!fd)
		return -EBADF;
	return (u32)args[0] == (u32)args[1] ? (s64)(u32)args[1] : dup_to(t, fd, (u32)args[1], false);
}

s64 sys_dup3(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	if ((u32)args[2] & ~(u32)O_CLOEXEC || (u32)args[0] == (u32)args[1])
		return -EINVAL;
	return fd ? dup_to(t, fd, (u32)args[1], (u32)args[2] != 0) : -EBADF;
}

s64 sys_fcntl(struct task *t, const u64 *args)
{
	enum { DUPFD = 0, GETFD = 1, SETFD = 2, GETFL = 3, SETFL = 4, DUPFD_CLOEXEC = 1030, SETTABLE = O_APPEND };
	struct fd *fd = fd_get(t, args[0]);

	if (!fd)
		return -EBADF;
	switch ((u32)args[1]) {
	case DUPFD:
	case DUPFD_CLOEXEC:
		return args[2] < fd_limit(t) ? fd_install(t, fd->file, (u32)args[2], (u32)args[1] == DUPFD_CLOEXEC) : -EINVAL;
	case GETFD:
		return fd->cloexec;
	case SETFD:
		fd->cloexec = args[2] & 1;
		return 0;
	case GETFL:
		return fd->file->flags;
	case SETFL:
		fd->file->flags = (fd->file->flags & ~(u32)SETTABLE) | ((u32)args[2] & SETTABLE);
		return 0;
	}
	return -EINVAL;
}

s64 sys_ioctl(struct task *t, const u64 *args)
{
	enum { TCGETS = 0x5401, TIOCGWINSZ = 0x5413 };
	static const struct termios usual = {
		0x500, 5, 0xbf, 0x8a3b, 0, { 3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22 },
	};
	struct fd *fd = fd_get(t, args[0]);
	struct winsize size = { 0 };

	if (!fd)
		return -EBADF;
	if (fd->file->kind != FILE_CONSOLE || !core.ops->console_size(fd->file->stream, &size.rows, &size.columns))
		return -ENOTTY;
	switch ((u32)args[1]) {
	case TCGETS:
		return user_write(t->mm, args[2], &usual, sizeof(usual));
	case TIOCGWINSZ:
		return user_write(t->mm, args[2], &size, sizeof(size));
	}
	return -ENOTTY;
}

/* -- names -- */

/* A name that the program gave, which is looked up from a descriptor on; 0 or -errno. */
static s64 get_path(struct task *t, char *path, u64 start, u64 from)
{
	s64 size = user_string(t->mm, path, from, PATH_MAX);

	if (size <= 0)
		return size ? size : -ENOENT;
	if (path[0] == '/' || (s32)start == AT_FDCWD)
		return 0;
	return fd_get(t, start) ? -ENOTDIR : -EBADF; /* none is of a directory */
}

static int find_file(const char *path)
{
	if (strings_equal(path, "/dev/null"))
		return FILE_NULL;
	return strings_equal(path, "/dev/zero") ? FILE_ZERO : FILE_NONE;
}

static s64 open_file(struct task *t, u64 start, u64 from, u32 flags)
{
	char path[PATH_MAX];
	s64 error = get_path(t, path, start, from), number;
	int kind;

	if (error)
		return error;
	kind = find_file(path);
	if (!kind)
		return flags & O_CREAT ? -EROFS : -ENOENT;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	for (u32 i = 0; i < FDS; i++) {
		if (t->files->files[i].users)
			continue;
		t->files->files[i] = (struct file){ .kind = kind, .flags = (flags & (O_ACCMODE | O_APPEND)) | O_LARGEFILE };
		number = fd_install(t, &t->files->files[i], 0, flags & O_CLOEXEC);
		if (number < 0)
			t->files->files[i].kind = FILE_NONE;
		return number;
	}
	return -EMFILE;
}

s64 sys_open(struct task *t, const u64 *args)
{
	return open_file(t, (u64)AT_FDCWD, args[0], (u32)args[1]);
}

s64 sys_openat(struct task *t, const u64 *args)
{
	return open_file(t, args[0], args[1], (u32)args[2]);
}

static s64 put_stat(struct task *t, u64 to, int kind, int stream)
{
	struct stat stat = { .device = 5, .links = 1, .mode = S_IFCHR | 0666, .block_size = PAGE };
	u16 rows, columns;

	if (kind == FILE_CONSOLE) {
		bool terminal = core.ops->console_size(stream, &rows, &columns);

		stat.inode = 16 + (u64)stream;
		stat.mode = terminal ? S_IFCHR | 0620 : S_IFIFO | 0600;
		stat.special = terminal ? 5 << 8 | 1 : 0;
	} else {
		stat.inode = (u64)kind;
		stat.special = 1 << 8 | (kind == FILE_NULL ? 3 : 5);
	}
	stat.user = core.config->user;
	stat.group = core.config->group;
	return user_write(t->mm, to, &stat, sizeof(stat));
}

s64 sys_fstat(struct task *t, const u64 *args)
{
	struct fd *fd = fd_get(t, args[0]);

	return fd ? put_stat(t, args[1], fd->file->kind, fd->file->stream) : -EBADF;
}

s64 sys_newfstatat(struct task *t, const u64 *args)
{
	const u32 known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC;
	u32 flags = (u32)args[3];
	char path[PATH_MAX];
	s64 error;
	int kind;

	if (flags & ~known)
		return -EINVAL;
	error = get_path(t, path, args[0], args[1]);
	if (error == -ENOENT && flags & AT_EMPTY_PATH) {
		const u64 fstat[] = { args[0], args[2] };

		return sys_fstat(t, fstat);
	}
	if (error)
		return error;
	kind = find_file(path);
	return kind ? put_stat(t, args[2], kind, 0) : -ENOENT;
}

static s64 read_link(struct task *t, u64 start, u64 from, u64 to, s32 size)
{
	char path[PATH_MAX];
	u64 length = string_size(core.config->real_path);
	s64 error;

	if (size <= 0)
		return -EINVAL;
	error = get_path(t, path, start, from);
	if (error)
		return error;
	if (!strings_equal(path, "/proc/self/exe"))
		return find_file(path) ? -EINVAL : -ENOENT;
	if (length > (u64)size)
		length = (u64)size;
	return user_write(t->mm, to, core.config->real_path, length) ? -EFAULT : (s64)length;
}

s64 sys_readlink(struct task *t, const u64 *args)
{
	return read_link(t, (u64)AT_FDCWD, args[0], args[1], (s32)args[2]);
}

s64 sys_readlinkat(struct task *t, const u64 *args)
{
	return read_link(t, args[0], args[1], args[2], (s32)args[3]);
}
