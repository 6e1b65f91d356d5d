// SPDX-License-Identifier: Apache-2.0
/*
 * A share against any requests, without a thread, so that a run depends on the input alone. Input: the share's options,
 * then requests: which one, for which node, with which open file, cut into descriptors how, with how much room for the
 * answer, and what it says: any bytes, or arguments as a guest would have them, made of a few bytes (form()). Between
 * requests the host changes its files (disturb()), and at the end the share may be saved and restored.
 *
 * Nothing outside of the share may change, nothing in guest memory but the answers, and every chain that was taken is
 * answered once.
 */
#include "fs/dax/dax.h"
#include "fs/dax/dax_struct.h"
#include "fs/fs.h"
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { WINDOW = 4 * DAX_SLOT };
enum { LOW = 0x10000, DESC = 0, AVAIL = 0x400, USED = 0x600, REQUEST = 0x1000, ANSWER = 0x8000, GUARD = 0xc000 };
enum { SIZE = 16, REQUESTS = 32, LIMIT = 1 << 20, FORM = 8, DISTURB = 0xfe };

static uint8_t *low;
static int event = -1, scratch;
static char home[64];

static int unlink_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	return at->level ? (kind == FTW_DP || kind == FTW_D ? rmdir(path) : unlink(path)) : 0;
}

static void put(const char *name, const char *text)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", home, name);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	require(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void clean(void)
{
	nftw(home, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
	rmdir(home);
}

static void setup(void)
{
	struct rlimit limit = { LIMIT, LIMIT };
	char path[128];

	if (event < 0) {
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		require(!posix_memalign((void **)&low, 4096, LOW));
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		scratch = memfd_create("scratch", MFD_CLOEXEC);
		require(ftruncate(scratch, 1) == 0);
		snprintf(home, sizeof(home), "/dev/shm/fuzz-fs-%d", getpid());
		require(mkdir(home, 0755) == 0);
		atexit(clean);
		put("secret", "outside");
	}
	snprintf(path, sizeof(path), "%s/share", home);
	chmod(path, 0755);
	nftw(path, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/share/dir", home);
	require(mkdir(path, 0755) == 0);
	put("share/file", "0123456789");
	put("share/dir/inner", "x");
	memset(low, 0, LOW);
	memset(low + GUARD, 0x5a, LOW - GUARD);
}

/* What the guest remembers of earlier answers. */
struct memory {
	uint64_t node[4], fh[4];
	uint32_t nodes, files;
};

static void remember(struct memory *m, uint32_t opcode)
{
	struct fuse_out_header h;
	uint8_t *body = low + ANSWER + sizeof(h);

	memcpy(&h, low + ANSWER, sizeof(h));
	if (h.error || h.len < sizeof(h) + 8)
		return;
	switch (opcode) {
	case FUSE_LOOKUP: case FUSE_MKDIR: case FUSE_MKNOD: case FUSE_SYMLINK: case FUSE_LINK:
		memcpy(&m->node[m->nodes++ % 4], body, 8);
		break;
	case FUSE_CREATE: case FUSE_TMPFILE:
		memcpy(&m->node[m->nodes++ % 4], body, 8);
		memcpy(&m->fh[m->files++ % 4], body + sizeof(struct fuse_entry_out), 8);
		break;
	case FUSE_OPEN: case FUSE_OPENDIR:
		memcpy(&m->fh[m->files++ % 4], body, 8);
		break;
	}
}

static void desc(uint32_t i, uint64_t addr, uint32_t len, uint16_t flags)
{
	struct { uint64_t addr; uint32_t len; uint16_t flags, next; } d = { addr, len, flags, (uint16_t)(i + 1) };

	memcpy(low + DESC + 16 * i, &d, 16);
}

static uint32_t name_put(uint8_t *at, uint8_t which)
{
	static const char *const names[] = { "file", "dir", "inner", "link", "new", "dir/..", "..", "" };
	char one[2] = { (char)('a' + which % 26), 0 };
	const char *name = which < 128 ? names[which % 8] : one;

	strcpy((char *)at, name);
	return (uint32_t)strlen(name) + 1;
}

static uint32_t attribute_put(uint8_t *at, uint8_t which)
{
	static const char *const names[] = { "user.a", "user.b", "system.posix_acl_access", "system.posix_acl_default",
					     "trusted.a", "security.a", "user.", "" };

	strcpy((char *)at, names[which % 8]);
	return (uint32_t)strlen(names[which % 8]) + 1;
}

#define ARGS(type, ...)                                    \
	do {                                               \
		const struct type in = { __VA_ARGS__ };    \
		memcpy(at, &in, sizeof(in));               \
		n = sizeof(in);                            \
	} while (0)

/* The arguments of a request that may well succeed, of these bytes; returns their length. */
static uint32_t form(uint8_t *at, uint32_t opcode, const uint8_t *b, const struct memory *m)
{
	static const uint32_t flags[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDWR | O_APPEND, O_RDWR | O_EXCL,
					  O_RDWR | O_DIRECT, O_RDWR | O_NOATIME };
	static const uint32_t kinds[] = { S_IFREG, S_IFREG | S_ISUID, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFDIR | S_ISGID, S_IFLNK, 0 };
	const uint64_t fh = b[0] == 0xff ? UINT64_MAX : m->fh[b[0] % 4], node = b[0] & 0x80 ? 1 : m->node[b[0] % 4];
	const uint32_t bytes = b[2] * 4u, mode = kinds[b[2] % 8] | 0644;
	uint32_t n = 0;

	switch (opcode) {
	case FUSE_LOOKUP: case FUSE_UNLINK: case FUSE_RMDIR:
		return name_put(at, b[1]);
	case FUSE_SYMLINK:
		n = name_put(at, b[1]);
		return n + name_put(at + n, b[2]);
	case FUSE_FORGET:
		ARGS(fuse_forget_in, .nlookup = b[0] % 4);
		break;
	case FUSE_BATCH_FORGET:
		ARGS(fuse_batch_forget_in, .count = b[0] % 8);
		for (uint32_t i = 0; i < 4; i++, n += sizeof(struct fuse_forget_one))
			memcpy(at + n, &(struct fuse_forget_one){ m->node[i], b[1] % 4 }, sizeof(struct fuse_forget_one));
		break;
	case FUSE_GETATTR:
		ARGS(fuse_getattr_in, .getattr_flags = b[1] & 1, .fh = fh);
		break;
	case FUSE_SETATTR:
		ARGS(fuse_setattr_in, .valid = b[1] | b[2] << 8, .fh = fh, .size = b[3] * 512u, .mode = mode,
		     .uid = b[4] % 4 ? b[4] : 0, .gid = b[5] % 4 ? b[5] : 0, .atime = b[3], .mtimensec = b[4] * 0x1000000u);
		break;
	case FUSE_STATX:
		ARGS(fuse_statx_in, .getattr_flags = b[1] & 1, .fh = fh, .sx_mask = ~0u);
		break;
	case FUSE_ACCESS:
		ARGS(fuse_access_in, .mask = b[1] % 16);
		break;
	case FUSE_MKNOD:
		ARGS(fuse_mknod_in, .mode = mode, .rdev = b[3], .umask = 022);
		return n + name_put(at + n, b[1]);
	case FUSE_MKDIR:
		ARGS(fuse_mkdir_in, .mode = 0755 | mode, .umask = 022);
		return n + name_put(at + n, b[1]);
	case FUSE_CREATE: case FUSE_TMPFILE:
		ARGS(fuse_create_in, .flags = flags[b[0] % 8], .mode = mode, .umask = 022, .open_flags = b[3] & 1);
		return n + name_put(at + n, b[1]);
	case FUSE_LINK:
		ARGS(fuse_link_in, .oldnodeid = node);
		return n + name_put(at + n, b[1]);
	case FUSE_RENAME: case FUSE_RENAME2:
		if (opcode == FUSE_RENAME)
			ARGS(fuse_rename_in, .newdir = node);
		else
			ARGS(fuse_rename2_in, .newdir = node, .flags = b[3] % 4);
		n += name_put(at + n, b[1]);
		return n + name_put(at + n, b[2]);
	case FUSE_OPEN: case FUSE_OPENDIR:
		ARGS(fuse_open_in, .flags = flags[b[1] % 8], .open_flags = b[2] & 1);
		break;
	case FUSE_READ: case FUSE_READDIR: case FUSE_READDIRPLUS:
		ARGS(fuse_read_in, .fh = fh, .offset = b[1], .size = b[2] & 1 ? 4096 : bytes);
		break;
	case FUSE_WRITE:
		ARGS(fuse_write_in, .fh = fh, .offset = b[1] * 64u, .size = bytes, .write_flags = b[3] & 7);
		return n + bytes;
	case FUSE_RELEASE: case FUSE_RELEASEDIR:
		ARGS(fuse_release_in, .fh = fh, .release_flags = b[1] & 3, .lock_owner = b[2] & 3);
		break;
	case FUSE_FLUSH:
		ARGS(fuse_flush_in, .fh = fh, .lock_owner = b[2] & 3);
		break;
	case FUSE_FSYNC: case FUSE_FSYNCDIR:
		ARGS(fuse_fsync_in, .fh = fh, .fsync_flags = b[1] & 1);
		break;
	case FUSE_LSEEK:
		ARGS(fuse_lseek_in, .fh = fh, .offset = b[1], .whence = b[2] % 6);
		break;
	case FUSE_FALLOCATE:
		ARGS(fuse_fallocate_in, .fh = fh, .offset = b[1], .length = b[2] * 64u, .mode = b[3] & 0x7f);
		break;
	case FUSE_COPY_FILE_RANGE:
		ARGS(fuse_copy_file_range_in, .fh_in = fh, .off_in = b[1], .nodeid_out = 1, .fh_out = m->fh[b[2] % 4],
		     .off_out = b[3], .len = b[4] * 16u);
		break;
	case FUSE_SETXATTR:
		ARGS(fuse_setxattr_in, .size = b[2], .flags = b[3] & 3, .setxattr_flags = b[4] & 1);
		n += attribute_put(at + n, b[1]);
		memset(at + n, b[5], b[2]);
		if (b[4] & 2) { /* version 2, and entries of five kinds */
			const uint16_t acl[22] = { 2, 0, 1, 6, 0xffff, 0xffff, 2, 6, b[5], 0, 4, 4, 0xffff, 0xffff, 0x10, 7, 0xffff,
						   0xffff, 0x20, 4, 0xffff, 0xffff };

			memcpy(at + n, acl, sizeof(acl));
			((struct fuse_setxattr_in *)(void *)at)->size = sizeof(acl);
			return n + (uint32_t)sizeof(acl);
		}
		return n + b[2];
	case FUSE_GETXATTR: case FUSE_LISTXATTR:
		ARGS(fuse_getxattr_in, .size = b[2]);
		return opcode == FUSE_GETXATTR ? n + attribute_put(at + n, b[1]) : n;
	case FUSE_REMOVEXATTR:
		return attribute_put(at, b[1]);
	case FUSE_GETLK: case FUSE_SETLK: case FUSE_SETLKW:
		ARGS(fuse_lk_in, .fh = fh, .owner = b[1] & 7, .lk_flags = b[3] & 1,
		     .lk = { b[2] % 16, b[4] & 1 ? INT64_MAX : b[2] % 16 + b[5], b[4] / 2 % 4, 7 });
		break;
	case FUSE_INTERRUPT:
		ARGS(fuse_interrupt_in, .unique = b[0] & 1 ? 7 : b[1]);
		break;
	case FUSE_SETUPMAPPING:
		ARGS(fuse_setupmapping_in, .fh = b[0] & 0x80 ? UINT64_MAX : fh, .foffset = b[1] % 8 * 4096ull,
		     .len = b[2] & 1 ? DAX_SLOT * (1 + b[2] / 2 % 4) : b[2] * 4096ull, .flags = b[3] & 3,
		     .moffset = b[4] % 4 * (uint64_t)DAX_SLOT);
		break;
	case FUSE_REMOVEMAPPING:
		ARGS(fuse_removemapping_in, .count = b[0] % 4);
		for (uint32_t i = 0; i < 3; i++, n += sizeof(struct fuse_removemapping_one))
			memcpy(at + n, &(struct fuse_removemapping_one){ b[1 + i] % 5 * (uint64_t)DAX_SLOT, DAX_SLOT },
			       sizeof(struct fuse_removemapping_one));
		break;
	}
	return n;
}

/* The host changes what is in its directory, or the window's thread looks at it. */
static void disturb(uint8_t what, uint8_t which, struct dax *window)
{
	char path[160], other[160], name[16] = "";
	int fd;

	name_put((uint8_t *)name, which & 0x7f);
	if (!*name || strchr(name, '.'))
		strcpy(name, "file");
	snprintf(path, sizeof(path), "%s/share/%s", home, name);
	snprintf(other, sizeof(other), "%s/share/new", home);
	/* Not through a link of the guest's, and without waiting for a FIFO's reader. */
	if (what % 8 == 4)
		unlink(path);
	fd = open(path, (what % 8 == 4 ? O_CREAT | O_RDWR : O_RDWR) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
	switch (what % 8) {
	case 0: case 4:
		(void)!ftruncate(fd, 0);
		break;
	case 1:
		(void)!ftruncate(fd, 4096 * (off_t)which);
		break;
	case 2:
		unlink(path);
		break;
	case 3:
		rename(path, other);
		break;
	case 5:
		(void)!fchmod(fd, 06755);
		break;
	case 6:
		mkdir(path, 02777);
		break;
	case 7:
		(void)!ftruncate(fd, LIMIT);
		break;
	}
	if (fd >= 0)
		close(fd);
	if (!window)
		return;
	switch (what >> 4 & 7) {
	case 1:
		dax_look_for_shrunk(window);
		break;
	case 2:
		dax_look_at_cuts(window);
		break;
	case 3:
		dax_fault(window);
		break;
	case 4: /* as the guest's access: an error where there is no page */
		(void)!pwrite(scratch, (uint8_t *)dax_window(window) + which * 8192u, 1, 0);
		break;
	case 5:
		(void)!pread(scratch, (uint8_t *)dax_window(window) + which * 8192u, 1, 0);
		break;
	}
}

/* Put one request into memory; 0 when the input is used up. Returns its opcode. */
static uint32_t ask(const uint8_t **data, size_t *size, const struct memory *m, uint16_t *avail, struct dax *window)
{
	/* request, node, file, options, cut, room, length */
	uint8_t how[7] = { 0 };
	struct fuse_in_header h = { .unique = 7, .pid = 1 };
	uint32_t len, n = 0, cut, room;

	if (input_take(data, size, how, sizeof(how)) < sizeof(how))
		return 0;
	h.opcode = how[0] & 0x80 ? how[0] : how[0] % 54;
	if (how[0] == DISTURB) {
		disturb(how[1], how[2], window);
		return DISTURB;
	}
	if (how[3] & 0x40) {
		uint8_t b[FORM] = { 0 };

		input_take(data, size, b, sizeof(b));
		len = sizeof(h) + form(low + REQUEST + sizeof(h), h.opcode, b, m);
	} else {
		len = sizeof(h) + (uint32_t)input_take(data, size, low + REQUEST + sizeof(h), how[6] * (how[3] & 0x80 ? 8 : 1));
	}
	h.nodeid = how[1] < 0x80 ? 1 : m->node[how[1] % 4];
	h.len = how[3] & 1 ? how[4] : len;
	h.uid = h.gid = how[3] & 2 ? 1000 : 0;
	h.total_extlen = how[3] & 4 ? how[4] % 8 : 0;
	if (how[2] & 0x80 && len >= sizeof(h) + 8)
		memcpy(low + REQUEST + sizeof(h), how[2] & 0x40 ? &m->node[how[2] % 4] : &m->fh[how[2] % 4], 8);
	memcpy(low + REQUEST, &h, sizeof(h));
	cut = how[3] & 8 && how[4] && how[4] < len ? how[4] : 0;
	room = how[3] & 16 ? how[5] : how[5] * 16u;
	if (cut)
		desc(n++, REQUEST, cut, 1);
	desc(n++, REQUEST + cut, len - cut, room ? 1 : 0);
	if (how[3] & 32 && room > 1) {
		desc(n++, ANSWER, 1, 3);
		desc(n++, ANSWER + 1, room - 1, 2);
	} else if (room) {
		desc(n++, ANSWER, room, 2);
	}
	memset(low + ANSWER, 0, GUARD - ANSWER);
	++*avail;
	memcpy(low + AVAIL + 2, avail, 2);
	return h.opcode ? h.opcode : 63;
}

static void init(struct fs_queue *q, const uint8_t *how, uint16_t *avail)
{
	struct fuse_in_header h = { .opcode = FUSE_INIT, .unique = 5 };
	struct fuse_init_in in = { .major = 7, .minor = 41, .flags = how[2] & 1 ? 0 : ~0u, .flags2 = how[2] & 2 ? 0 : ~0u };

	h.len = sizeof(h) + sizeof(in);
	memcpy(low + REQUEST, &h, sizeof(h));
	memcpy(low + REQUEST + sizeof(h), &in, sizeof(in));
	desc(0, REQUEST, h.len, 1);
	desc(1, ANSWER, 256, 2);
	++*avail;
	memcpy(low + AVAIL + 2, avail, 2);
	require(fs_worker_ops.run(&q->worker) == 1);
}

/* What the guest has of the share goes into a file; a share that is made of it has the same. */
static void save(struct fs *fs, const struct fs_config *config)
{
	struct fs_stats was, is;
	char text[FS_TEXT];
	uint32_t gone = 0;
	struct fs *other;
	int fd, err;

	fd = memfd_create("state", MFD_CLOEXEC);
	other = fs_new(config, &err);
	require(fd >= 0 && other);
	if (!fs_save(fs, fd, text) && !fs_restore(other, fd, &gone)) {
		fs_get_stats(fs, &was);
		fs_get_stats(other, &is);
		require(is.nodes == was.nodes && is.files <= was.files);
	}
	fs_free(other);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mem mem = { .nregions = 1 };
	struct ring_config rc = { .size = SIZE, .desc = DESC, .avail = AVAIL, .used = USED };
	struct memory m = { .node = { 1, 1, 1, 1 } };
	struct fs_config fc = { .proc_fd = -1, .max_fds = 16, .max_files = 32, .max_nodes = 64 };
	uint8_t how[3] = { 0 };
	uint32_t isr = 0;
	struct irq irq = { .fd = event, .status = &isr };
	uint16_t avail = 0;
	char text[16], path[128];
	struct fs_queue *q;
	struct ring *ring;
	uint32_t opcode;
	struct fs *fs;
	int err, n = 0, fd;

	setup();
	irq.fd = event;
	mem.region[0] = (struct mem_region){ 0, LOW, (uintptr_t)low };
	input_take(&data, &size, how, sizeof(how));
	snprintf(path, sizeof(path), "%s/share", home);
	fc.root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	require(fc.root_fd >= 0);
	fc.flags = how[0] & (FS_RO | FS_WRITEBACK | FS_ACL | FS_HANDLES | FS_NO_MARKS);
	fc.cache = how[0] >> 4 & 1 ? FS_CACHE_ALWAYS : FS_CACHE_NONE;
	if (how[1] & 1) {
		fc.users = fc.groups = (struct fs_ids){ .nmaps = 1, .unmapped = 65534, .map = { { 0, 0, 1001 } } };
	}
	if (how[1] & 2) {
		static struct dax *window;

		if (!window)
			window = dax_new(WINDOW, &err);
		require(window);
		dax_clear(window);
		fc.dax = window;
		fc.dax_size = WINDOW;
	}
	fs = fs_new(&fc, &err);
	require(fs);
	ring = ring_new(&mem, &rc, &err);
	q = fs_queue_new(fs);
	require(ring && q);
	q->worker.ring = ring;
	q->worker.irq = &irq;
	q->worker.kick_fd = q->worker.stop_fd = q->worker.event_fd = event;
	init(q, how, &avail);
	for (int i = 0; i < REQUESTS && n >= 0; i++) {
		opcode = ask(&data, &size, &m, &avail, fc.dax);
		if (!opcode)
			break;
		if (opcode == DISTURB)
			continue;
		n = fs_worker_ops.run(&q->worker);
		remember(&m, opcode);
	}
	if (fc.dax)
		dax_fault(fc.dax);
	fs_worker_ops.drain(&q->worker);
	worker_flush(&q->worker);
	/* Only a chain without a header or a place for the answer has none, and it is the last one. */
	require(ring_in_flight(ring) <= (n < 0));
	for (uint32_t i = GUARD; i < LOW; i++)
		require(low[i] == 0x5a);
	fs_worker_ops.destroy(&q->worker);
	if (how[1] & 4)
		save(fs, &fc);
	if (how[1] & 8)
		fs_reset(fs);
	fs_free(fs);
	close(fc.root_fd);
	ring_free(ring);
	snprintf(path, sizeof(path), "%s/secret", home);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	require(fd >= 0 && read(fd, text, sizeof(text)) == 7 && !memcmp(text, "outside", 7));
	close(fd);
	/* Acting as somebody else has made the process one that the leak checker may not look into. */
	prctl(PR_SET_DUMPABLE, 1);
	return 0;
}
