// SPDX-License-Identifier: Apache-2.0
/*
 * A share on a host that fails, with few descriptors, and on several file systems. It serves on the thread of the test, so that
 * a call of the host fails in just one request.
 */
#include "guest.h"

#include "fs/fs.h"

#include <fcntl.h>
#include <ftw.h>
#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static struct guest g;

enum { FILES = 24, EXEC = 0x20 };
static char home[200];
static struct fs *fs;
static struct fs_queue *queue;
static uint64_t unique;
static uint32_t answered; /* bytes of the last answer's payload */
static bool ended; /* its worker, by an error */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	return at->level ? (kind == FTW_DP || kind == FTW_D ? rmdir(path) : unlink(path)) : 0;
}

static void host_file(const char *name, const char *text)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", home, name);
	fd = __real_open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* The host's name of a file; good until the next but one. */
static const char *host_path(const char *name)
{
	static char path[2][300];
	static int turn;

	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", home, name);
	return path[turn];
}

/* A directory with files, in the folder `name` of the test's own. */
static void fill_directory(const char *name)
{
	char text[16];

	snprintf(home, sizeof(home), "%s/%s", getenv("DIR"), name);
	mkdir(home, 0755);
	nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	CHECK(mkdir(host_path("dir"), 0755) == 0);
	host_file("file", "0123456789");
	host_file("dir/inner", "x");
	for (int i = 0; i < FILES; i++) {
		snprintf(text, sizeof(text), "f%d", i);
		host_file(text, text);
	}
}

static void remove_directory(void)
{
	nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	rmdir(home);
}

static uint32_t most_nodes; /* 0: as many as there may be as a rule */

static int share_open(const char *path, uint32_t flags, uint32_t cache)
{
	struct fs_config c = { .proc_fd = -1, .flags = flags, .cache = cache, .max_fds = 16, .max_files = 4, .max_nodes = most_nodes };
	uint32_t at;
	int err;

	c.root_fd = __real_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (c.root_fd < 0)
		return -errno;
	fs = fs_new(&c, &err);
	close(c.root_fd);
	if (!fs)
		return err;
	queue = fs_queue_new(fs);
	if (!queue) {
		fs_free(fs);
		return -ENOMEM;
	}
	at = fails_at;
	fails_at = 0;
	guest_open(&g, 8, RING_EVENT_IDX);
	fails_at = at;
	ended = false;
	queue->worker.ring = g.ring;
	queue->worker.irq = &g.irq;
	queue->worker.kick_fd = queue->worker.event_fd = queue->worker.stop_fd = g.event_fd;
	return 0;
}

static void share_close(void)
{
	fs_worker_ops.drain(&queue->worker);
	fs_worker_ops.destroy(&queue->worker);
	fs_free(fs);
	guest_close(&g);
}

/* A request of these bytes: its errno, and *out is where its answer's payload is. */
static int ask_bytes(uint32_t opcode, uint64_t node, uint32_t uid, const void *arg, size_t len, void **out)
{
	struct fuse_in_header h = { .opcode = opcode, .nodeid = node, .unique = ++unique, .uid = uid, .gid = uid, .pid = 1 };
	struct fuse_out_header *answer = guest_ptr(&g, AT_DATA + 0x10000);
	bool quiet = opcode == FUSE_FORGET;
	uint8_t *at = guest_ptr(&g, AT_DATA);
	int n;

	if (ended)
		return EIO;
	h.len = (uint32_t)(sizeof(h) + len);
	memcpy(at, &h, sizeof(h));
	memcpy(at + sizeof(h), arg, len);
	guest_desc(&g, 0, AT_DATA, h.len, quiet ? 0 : D_NEXT, 1);
	guest_desc(&g, 1, AT_DATA + 0x10000, 8192, D_WRITE, 0);
	guest_offer(&g, 0);
	n = fs_worker_ops.run(&queue->worker);
	ended = n < 0;
	if (ended)
		return EIO;
	CHECK_EQ(n, 1);
	guest_take(&g, NULL);
	if (quiet)
		return 0;
	CHECK_EQ(answer->unique, h.unique);
	answered = answer->len - (uint32_t)sizeof(*answer);
	if (out)
		*out = answer + 1;
	return -answer->error;
}

static int ask(uint32_t opcode, uint64_t node, const void *arg, size_t len, const char *name, const char *second, void **out)
{
	uint8_t bytes[1024] = { 0 };
	size_t first = name ? strlen(name) + 1 : 0, other = second ? strlen(second) + 1 : 0;

	if (len)
		memcpy(bytes, arg, len);
	memcpy(bytes + len, name ? name : "", first);
	memcpy(bytes + len + first, second ? second : "", other);
	return ask_bytes(opcode, node, 0, bytes, len + first + other, out);
}

static int mount_share(void)
{
	const struct fuse_init_in in = { .major = 7, .minor = 41, .flags = ~0u, .flags2 = ~0u };

	return ask(FUSE_INIT, 0, &in, sizeof(in), NULL, NULL, NULL);
}

/* The node of a name; 0 and *err: there is none. */
static uint64_t lookup(uint64_t dir, const char *name, int *err)
{
	struct fuse_entry_out *entry;
	void *out;

	*err = ask(FUSE_LOOKUP, dir, NULL, 0, name, NULL, &out);
	entry = out;
	return *err ? 0 : entry->nodeid;
}

static uint64_t known(uint64_t dir, const char *name)
{
	int err;
	uint64_t node = lookup(dir, name, &err);

	CHECK_EQ(err, 0);
	return node;
}

static int getattr(uint64_t node)
{
	const struct fuse_getattr_in in = { 0 };

	return ask(FUSE_GETATTR, node, &in, sizeof(in), NULL, NULL, NULL);
}

/* Open it, and give what it has. */
static int content(uint64_t node, uint32_t flags, char text[16])
{
	const struct fuse_open_in in = { .flags = flags };
	struct fuse_release_in release = { 0 };
	struct fuse_read_in read_in = { .size = 15 };
	void *out;
	int err = ask(FUSE_OPEN, node, &in, sizeof(in), NULL, NULL, &out);

	if (err)
		return err;
	release.fh = read_in.fh = ((struct fuse_open_out *)out)->fh;
	err = ask(FUSE_READ, node, &read_in, sizeof(read_in), NULL, NULL, &out);
	if (!err) {
		CHECK(answered < 16);
		memcpy(text, out, answered);
		text[answered] = 0;
	}
	ask(FUSE_RELEASE, node, &release, sizeof(release), NULL, NULL, NULL);
	return err;
}

/* All entries of a directory, by READDIRPLUS: the guest knows them then. */
static void list(uint64_t node)
{
	const struct fuse_open_in in = { 0 };
	struct fuse_read_in page = { .size = 8000 };
	struct fuse_release_in release = { 0 };
	void *out;

	if (ask(FUSE_OPENDIR, node, &in, sizeof(in), NULL, NULL, &out))
		return;
	release.fh = page.fh = ((struct fuse_open_out *)out)->fh;
	ask(FUSE_READDIRPLUS, node, &page, sizeof(page), NULL, NULL, NULL);
	ask(FUSE_RELEASEDIR, node, &release, sizeof(release), NULL, NULL, NULL);
}

static uint32_t script_flags;

/* Nothing fails where no call of the host does. */
#define TRY(request)                           \
	do {                                   \
		int error_ = (request);        \
		if (calm)                      \
			CHECK_EQ(error_, 0);   \
	} while (0)

/* Requests of all families, some of which depend on others; it goes on, whatever fails. */
static int requests(void)
{
	const struct fuse_create_in create = { .flags = O_RDWR, .mode = S_IFREG | 0644, .umask = 022 };
	const struct fuse_mkdir_in mkdir_in = { .mode = 0755 };
	const struct fuse_setattr_in set = { .valid = FATTR_SIZE | FATTR_MODE, .size = 3, .mode = 0600 };
	const char created[] = "made by another";
	uint8_t bytes[sizeof(create) + sizeof(created)];
	struct fuse_rename2_in rename_in = { .newdir = 1 };
	const bool calm = fails_at == 0;
	struct fuse_link_in link_in = { 0 };
	uint64_t at, inner;
	char text[16];
	void *out;
	int err;

	fill_directory("faults");
	err = share_open(home, script_flags, FS_CACHE_AUTO);
	if (err)
		return err;
	TRY(mount_share());
	at = lookup(1, "dir", &err);
	TRY(err);
	inner = at ? lookup(at, "inner", &err) : 0;
	TRY(err);
	list(1);
	if (inner) {
		TRY(getattr(inner));
		TRY(content(inner, O_RDONLY | EXEC, text));
		TRY(ask(FUSE_SETATTR, inner, &set, sizeof(set), NULL, NULL, NULL));
		TRY(ask(FUSE_RENAME2, at, &rename_in, sizeof(rename_in), "inner", "outer", NULL));
		link_in.oldnodeid = inner;
		TRY(ask(FUSE_LINK, 1, &link_in, sizeof(link_in), "second", NULL, NULL));
	}
	/* In a directory of root's, by another user. */
	memcpy(bytes, &create, sizeof(create));
	memcpy(bytes + sizeof(create), created, sizeof(created));
	err = ask_bytes(FUSE_CREATE, 1, 1000, bytes, sizeof(bytes), &out);
	if (calm)
		CHECK_EQ(err, fs->can_switch && !(script_flags & FS_OVERRIDE) ? EACCES : 0);
	if (!err)
		TRY(ask(FUSE_UNLINK, 1, NULL, 0, created, NULL, NULL));
	TRY(ask(FUSE_CREATE, 1, &create, sizeof(create), "f3", NULL, NULL));
	TRY(ask(FUSE_TMPFILE, 1, &create, sizeof(create), "", NULL, NULL));
	TRY(ask(FUSE_MKDIR, 1, &mkdir_in, sizeof(mkdir_in), "new", NULL, NULL));
	TRY(ask(FUSE_SYMLINK, 1, NULL, 0, "link", "file", NULL));
	TRY(ask(FUSE_RMDIR, 1, NULL, 0, "new", NULL, NULL));
	/* Whatever the order of entries: of one of them the descriptor was closed. */
	TRY(ask(FUSE_UNLINK, 1, NULL, 0, "f5", NULL, NULL));
	TRY(ask(FUSE_UNLINK, 1, NULL, 0, "f20", NULL, NULL));
	TRY(ask(FUSE_RENAME2, 1, &rename_in, sizeof(rename_in), "f21", "f22", NULL));
	TRY(ask(FUSE_STATFS, 1, NULL, 0, NULL, NULL, NULL));
	TRY(ask(FUSE_DESTROY, 1, NULL, 0, NULL, NULL, NULL));
	/* Whatever failed is over. */
	if (fails_at == 0 && !ended) {
		CHECK_EQ(mount_share(), 0);
		at = known(1, "file");
		CHECK_EQ(content(at, O_RDONLY, text), 0);
		CHECK(!strcmp(text, "0123456789"));
	}
	share_close();
	return 0;
}

static void requests_fail_once(uint32_t flags)
{
	script_flags = flags;
	each_call_fails(requests);
	remove_directory();
}

void requests_of_a_share_fail(void)
{
	requests_fail_once(FS_OVERRIDE);
}

void requests_of_a_share_with_handles_fail(void)
{
	requests_fail_once(FS_HANDLES);
}

void requests_of_a_share_without_marks_fail(void)
{
	requests_fail_once(FS_NO_MARKS);
}

/* ---- few descriptors, other file systems ---- */

static void few_descriptors(uint32_t flags)
{
	const struct fuse_setattr_in times = { .valid = FATTR_MTIME, .mtime = 5 }, mode = { .valid = FATTR_MODE, .mode = 0600 };
	uint64_t file_id, dir, inner, gone, f[FILES];
	struct fs_stats stats;
	char text[16];
	int err;

	fill_directory("few");
	CHECK_EQ(share_open(home, flags, FS_CACHE_NONE), 0);
	CHECK_EQ(mount_share(), 0);
	file_id = known(1, "file");
	dir = known(1, "dir");
	inner = known(dir, "inner");
	gone = known(1, "f0");
	for (int i = 0; i < FILES; i++) {
		snprintf(text, sizeof(text), "f%d", i);
		f[i] = known(1, text);
	}
	fs_get_stats(fs, &stats);
	CHECK(stats.fds <= 32 && stats.nodes >= FILES);
	/* Files whose descriptors were closed are found again: they, and no others. */
	CHECK_EQ(getattr(file_id), 0);
	CHECK_EQ(getattr(inner), 0);
	for (int i = 0; i < FILES; i++) {
		char is[16] = "";

		snprintf(text, sizeof(text), "f%d", i);
		CHECK_EQ(content(f[i], O_RDONLY, is), 0);
		CHECK(!strcmp(is, text));
		CHECK_EQ(known(1, text), f[i]);
	}
	/* The host replaces one, removes one, and makes a directory of one. */
	host_file("other", "another");
	CHECK(rename(host_path("other"), host_path("file")) == 0);
	CHECK(unlink(host_path("f0")) == 0 && unlink(host_path("dir/inner")) == 0 && rmdir(host_path("dir")) == 0);
	host_file("dir", "no directory");
	for (int i = 1; i < FILES; i++) /* the others are used */
		CHECK_EQ(getattr(f[i]), 0);
	if (!content(file_id, O_RDONLY, text)) /* it is the old one, or none */
		CHECK(!strcmp(text, "0123456789"));
	CHECK(known(1, "file") != file_id);
	CHECK_EQ(content(known(1, "file"), O_RDONLY, text), 0);
	CHECK(!strcmp(text, "another"));
	if (!content(gone, O_RDONLY, text))
		CHECK(!strcmp(text, "f0"));
	CHECK(content(inner, O_RDONLY, text) == ESTALE || !strcmp(text, "x"));
	CHECK(ask(FUSE_LOOKUP, dir, NULL, 0, "inner", NULL, NULL) != 0);
	/* By the guest: a name that moves, one that goes, of files that have no descriptor. */
	for (int i = 1; i < FILES; i++) {
		const struct fuse_rename2_in move = { .newdir = 1 };
		char other[16];

		snprintf(text, sizeof(text), "f%d", i);
		snprintf(other, sizeof(other), "g%d", i);
		CHECK_EQ(ask(FUSE_RENAME2, 1, &move, sizeof(move), text, other, NULL), 0);
		CHECK_EQ(ask(FUSE_LOOKUP, 1, NULL, 0, text, NULL, NULL), ENOENT);
		CHECK_EQ(content(f[i], O_RDONLY, text), 0);
		CHECK_EQ(text[0], 'f');
	}
	for (int i = 1; i < FILES; i++) {
		snprintf(text, sizeof(text), "g%d", i);
		CHECK_EQ(ask(FUSE_UNLINK, 1, NULL, 0, text, NULL, NULL), 0);
		err = getattr(f[i]);
		CHECK(!err || (err == ESTALE && flags & FS_HANDLES));
		/* The guest writes its times back, and is told of no error; anything else of it may be gone. */
		CHECK_EQ(ask(FUSE_SETATTR, f[i], &times, sizeof(times), NULL, NULL, NULL), 0);
		CHECK_EQ(ask(FUSE_SETATTR, f[i], &mode, sizeof(mode), NULL, NULL, NULL), err);
	}
	share_close();
	remove_directory();
}

void few_descriptors_and_handles(void)
{
	few_descriptors(FS_HANDLES);
}

void few_descriptors_and_marks(void)
{
	few_descriptors(0);
}

void few_descriptors_and_names(void)
{
	few_descriptors(FS_NO_MARKS);
}

void a_limit_on_open_files(void)
{
	const struct fuse_open_in in = { 0 };
	struct fuse_release_in release = { 0 };
	struct fuse_create_in create = { .flags = O_RDWR, .mode = S_IFREG | 0644 };
	uint64_t file_id, fh[4];
	void *out;

	fill_directory("open");
	CHECK_EQ(share_open(home, FS_NO_LOCKS, FS_CACHE_AUTO), 0);
	CHECK_EQ(mount_share(), 0);
	file_id = known(1, "file");
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(ask(i % 2 ? FUSE_OPEN : FUSE_OPENDIR, i % 2 ? file_id : 1, &in, sizeof(in), NULL, NULL, &out), 0);
		fh[i] = ((struct fuse_open_out *)out)->fh;
	}
	CHECK_EQ(ask(FUSE_OPEN, file_id, &in, sizeof(in), NULL, NULL, NULL), ENFILE);
	CHECK_EQ(ask(FUSE_OPENDIR, 1, &in, sizeof(in), NULL, NULL, NULL), ENFILE);
	CHECK_EQ(ask(FUSE_CREATE, 1, &create, sizeof(create), "made", NULL, NULL), ENFILE);
	CHECK_EQ(ask(FUSE_CREATE, 1, &create, sizeof(create), "f1", NULL, NULL), ENFILE);
	release.fh = fh[1];
	CHECK_EQ(ask(FUSE_RELEASE, file_id, &release, sizeof(release), NULL, NULL, NULL), 0);
	CHECK_EQ(ask(FUSE_RELEASE, file_id, &release, sizeof(release), NULL, NULL, NULL), EBADF);
	CHECK_EQ(ask(FUSE_OPEN, file_id, &in, sizeof(in), NULL, NULL, &out), 0);
	CHECK(((struct fuse_open_out *)out)->fh != fh[1]);
	CHECK_EQ(ask(FUSE_FLUSH, file_id, &(struct fuse_flush_in){ .fh = fh[3] }, sizeof(struct fuse_flush_in), NULL, NULL, NULL),
		 ENOSYS);
	share_close();
	remove_directory();
}

void a_limit_on_nodes(void)
{
	const struct fuse_create_in create = { .flags = O_RDWR, .mode = S_IFREG | 0644 };
	const struct fuse_forget_in forget = { .nlookup = 100 };
	char name[16];
	int err;

	fill_directory("nodes");
	most_nodes = 8;
	for (uint32_t flags = 0; flags <= FS_HANDLES; flags += FS_HANDLES) {
		uint64_t first = 0;

		CHECK_EQ(share_open(home, flags, FS_CACHE_NONE), 0);
		CHECK_EQ(mount_share(), 0);
		for (int i = 0; i < 8; i++) {
			snprintf(name, sizeof(name), "f%d", i);
			first = known(1, name);
		}
		CHECK_EQ(lookup(1, "f8", &err), 0);
		CHECK_EQ(err, ENFILE);
		CHECK_EQ(ask(FUSE_CREATE, 1, &create, sizeof(create), "made", NULL, NULL), ENFILE);
		list(1); /* it lists them all the same */
		CHECK_EQ(known(1, "f7"), first);
		CHECK_EQ(ask(FUSE_FORGET, first, &forget, sizeof(forget), NULL, NULL, NULL), 0);
		CHECK(known(1, "f8") != first);
		CHECK_EQ(getattr(first), ESTALE);
		share_close();
	}
	remove_directory();
}

/* More than there are buckets for. */
void many_nodes(void)
{
	enum { MANY = 1500 };
	static uint64_t node[MANY];
	char name[16];

	fill_directory("many");
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		host_file(name, name);
	}
	CHECK_EQ(share_open(home, FS_NO_MARKS, FS_CACHE_NONE), 0);
	CHECK_EQ(mount_share(), 0);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		node[i] = known(1, name);
	}
	for (int i = 0; i < MANY; i++) {
		char text[16] = "";

		snprintf(name, sizeof(name), "n%d", i);
		CHECK_EQ(known(1, name), node[i]);
		CHECK_EQ(content(node[i], O_RDONLY, text), 0);
		CHECK(!strcmp(text, name));
	}
	share_close();
	remove_directory();
}

/* A program that nobody changes may stay in the guest's cache; one that somebody has changed may not. */
void programs_that_are_run_again(void)
{
	const struct fuse_open_in in = { .flags = O_RDONLY | EXEC };
	bool kept[3];
	void *out;

	for (int other = 0; other < 2; other++) {
		uint64_t program;

		fill_directory("programs");
		CHECK_EQ(share_open(other ? home : "/usr/bin", 0, FS_CACHE_AUTO), 0);
		CHECK_EQ(mount_share(), 0);
		program = known(1, other ? "file" : "env");
		for (int i = 0; i < 3; i++) {
			CHECK_EQ(ask(FUSE_OPEN, program, &in, sizeof(in), NULL, NULL, &out), 0);
			kept[i] = ((struct fuse_open_out *)out)->open_flags & FOPEN_KEEP_CACHE;
		}
		CHECK(!kept[0]);
		CHECK_EQ(kept[1], !other);
		CHECK_EQ(kept[2], !other);
		share_close();
	}
	remove_directory();
}

/* A host that allows it: mounts below the share, an overlay. Else this test is skipped. */
static void mount_or_skip(const char *type, const char *at, const char *options)
{
	if (mount(type, at, type, 0, options)) {
		printf("no %s here: %s\n", type, strerror(errno));
		exit(77);
	}
}

static void enter_mounts(void)
{
	if (__real_unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		puts("no mount namespace here");
		exit(77);
	}
}

void mounts_below_a_share(void)
{
	struct fuse_entry_out *entry;
	uint64_t proc, status;
	char text[16];
	void *out;

	enter_mounts();
	fill_directory("mounts");
	CHECK(mkdir(host_path("proc"), 0755) == 0);
	mount_or_skip("proc", host_path("proc"), NULL);
	mount_or_skip("tmpfs", host_path("dir"), NULL);
	host_file("dir/inner", "mounted");
	CHECK_EQ(share_open(home, FS_HANDLES, FS_CACHE_NONE), 0);
	CHECK_EQ(mount_share(), 0);
	CHECK_EQ(ask(FUSE_LOOKUP, 1, NULL, 0, "dir", NULL, &out), 0);
	entry = out;
	CHECK(entry->attr.flags & FUSE_ATTR_SUBMOUNT);
	CHECK_EQ(content(known(entry->nodeid, "inner"), O_RDONLY, text), 0);
	CHECK(!strcmp(text, "mounted"));
	/* The host's kernel is not for guests. */
	proc = known(1, "proc");
	status = known(proc, "uptime");
	CHECK_EQ(content(status, O_RDONLY, text), EACCES);
	CHECK(ask(FUSE_GETXATTR, status, &(struct fuse_getxattr_in){ 0 }, sizeof(struct fuse_getxattr_in), "user.x", NULL, NULL) != 0);
	share_close();
	umount2(host_path("proc"), MNT_DETACH);
	umount2(host_path("dir"), MNT_DETACH);
	remove_directory();
}

/* Copy-up changes numbers: a file stays the one that the guest knows, and two are not taken for one. */
void files_of_an_overlay(void)
{
	char options[1000], merged[220], text[24];
	uint64_t one, two, inner, dir, plain;

	enter_mounts();
	fill_directory("overlay");
	mount_or_skip("tmpfs", home, NULL);
	for (int i = 0; i < 4; i++)
		CHECK(mkdir(host_path((const char *const[]){ "lower", "upper", "work", "merged" }[i]), 0755) == 0);
	/* On another file system: then numbers do not stay. */
	mount_or_skip("tmpfs", host_path("lower"), NULL);
	CHECK(mkdir(host_path("lower/dir"), 0755) == 0);
	host_file("lower/dir/inner", "inner");
	host_file("lower/plain", "plain");
	host_file("lower/one", "linked");
	CHECK(link(host_path("lower/one"), host_path("lower/two")) == 0);
	for (int i = 0; i < FILES; i++) {
		snprintf(text, sizeof(text), "lower/f%d", i);
		host_file(text, text);
	}
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,xino=off", home, home, home);
	snprintf(merged, sizeof(merged), "%s/merged", home);
	mount_or_skip("overlay", merged, options);
	CHECK_EQ(share_open(merged, 0, FS_CACHE_NONE), 0);
	CHECK_EQ(mount_share(), 0);
	plain = known(1, "plain");
	one = known(1, "one");
	two = known(1, "two");
	CHECK_EQ(known(1, "one"), one);
	CHECK_EQ(known(1, "two"), two);
	dir = known(1, "dir");
	inner = known(dir, "inner");
	/* The host writes: three files are copied up, one of them by one of its names. */
	host_file("merged/plain", "copied");
	host_file("merged/one", "split");
	host_file("merged/dir/inner", "deep");
	for (int turn = 0; turn < 2; turn++) {
		CHECK_EQ(content(plain, O_RDONLY, text), 0);
		CHECK(!strcmp(text, "copied"));
		CHECK_EQ(known(1, "plain"), plain);
		CHECK_EQ(known(dir, "inner"), inner);
		CHECK_EQ(content(inner, O_RDONLY, text), 0);
		CHECK(!strcmp(text, "deep"));
		CHECK_EQ(content(known(1, "one"), O_RDONLY, text), 0);
		CHECK(!strcmp(text, "split"));
		CHECK_EQ(content(known(1, "two"), O_RDONLY, text), 0);
		CHECK(!strcmp(text, "linked"));
		CHECK(known(1, "one") != known(1, "two"));
		/* All the same when their descriptors were closed. */
		for (int i = 0; i < FILES; i++) {
			snprintf(text, sizeof(text), "f%d", i);
			known(1, text);
		}
	}
	/* The guest moves and removes files that the host has copied up since the guest saw them last. */
	for (int i = 0; i < 2; i++) {
		const struct fuse_rename2_in move = { .newdir = 1 };

		one = known(1, "f0");
		for (int k = 1; k < FILES; k++) {
			snprintf(text, sizeof(text), "f%d", k);
			known(1, text);
		}
		host_file("merged/f0", "written");
		if (i)
			CHECK_EQ(ask(FUSE_UNLINK, 1, NULL, 0, "f0", NULL, NULL), 0);
		else
			CHECK_EQ(ask(FUSE_RENAME2, 1, &move, sizeof(move), "f0", "g0", NULL), 0);
		CHECK_EQ(content(one, O_RDONLY, text), 0);
		CHECK(!strcmp(text, "written"));
		host_file("merged/f0", "another");
		CHECK(known(1, "f0") != one);
	}
	share_close();
	umount2(merged, MNT_DETACH);
	umount2(host_path("lower"), MNT_DETACH);
	umount2(home, MNT_DETACH);
	remove_directory();
}
