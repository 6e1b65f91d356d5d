// SPDX-License-Identifier: Apache-2.0
/*
 * A share against any requests, without a thread, so that a run depends on the input alone. Input: the share's options,
 * then requests: which one, for which node, with which open file, cut into descriptors how, with how much room for the
 * answer, and what it says.
 *
 * Nothing outside of the share may change, nothing in guest memory but the answers, and every chain that was taken is
 * answered once.
 */
#include "fs/dax/dax.h"
#include "fs/fs.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WINDOW = 4 * DAX_SLOT };
enum { LOW = 0x10000, DESC = 0, AVAIL = 0x400, USED = 0x600, REQUEST = 0x1000, ANSWER = 0x8000, GUARD = 0xc000 };
enum { SIZE = 16, REQUESTS = 24, LIMIT = 1 << 20 };

static uint8_t *low;
static int event = -1;
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

/* Put one request into memory; 0 when the input is used up. Returns its opcode. */
static uint32_t ask(const uint8_t **data, size_t *size, const struct memory *m, uint16_t *avail)
{
	/* request, node, file, options, cut, room, length */
	uint8_t how[7] = { 0 };
	struct fuse_in_header h = { .unique = 7, .pid = 1 };
	uint32_t len, n = 0, cut, room;

	if (take(data, size, how, sizeof(how)) < sizeof(how))
		return 0;
	len = sizeof(h) + (uint32_t)take(data, size, low + REQUEST + sizeof(h), how[6] * (how[3] & 0x80 ? 8 : 1));
	h.opcode = how[0] & 0x80 ? how[0] : how[0] % 54;
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
	take(&data, &size, how, sizeof(how));
	snprintf(path, sizeof(path), "%s/share", home);
	fc.root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	require(fc.root_fd >= 0);
	fc.flags = how[0] & (FS_RO | FS_WRITEBACK | FS_ACL | FS_HANDLES | FS_NO_MARKS);
	fc.cache = how[0] >> 4 & 1 ? FS_CACHE_ALWAYS : FS_CACHE_NONE;
	if (how[1] & 1) {
		fc.nmaps = 1;
		fc.map[0] = (struct fs_map){ 0, 0, 1001 };
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
	close(fc.root_fd);
	ring = ring_new(&mem, &rc, &err);
	q = fs_queue_new(fs);
	require(ring && q);
	q->worker.ring = ring;
	q->worker.irq = &irq;
	q->worker.kick_fd = q->worker.stop_fd = q->worker.event_fd = event;
	init(q, how, &avail);
	for (int i = 0; i < REQUESTS && n >= 0; i++) {
		opcode = ask(&data, &size, &m, &avail);
		if (!opcode)
			break;
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
	fs_free(fs);
	ring_free(ring);
	snprintf(path, sizeof(path), "%s/secret", home);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	require(fd >= 0 && read(fd, text, sizeof(text)) == 7 && !memcmp(text, "outside", 7));
	close(fd);
	/* Acting as somebody else has made the process one that the leak checker may not look into. */
	prctl(PR_SET_DUMPABLE, 1);
	return 0;
}
