// SPDX-License-Identifier: Apache-2.0
/* fs*.c with several threads at once: queues that share nodes, files and locks, and two servers on one directory. */
#include "fs/fs.h"
#include "guest.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

enum { T_NODES = 12, ROUNDS = 400 };

static char home[256];

/* A queue with its driver. */
struct driver {
	struct guest g;
	struct fs *fs;
	struct worker *worker;
	uint64_t unique;
	uint32_t id;
	pthread_t thread;
};

static struct fs *share(uint32_t flags, uint32_t max_fds)
{
	struct fs_config c = { .proc_fd = -1, .flags = flags, .cache = FS_CACHE_AUTO, .max_fds = max_fds };
	struct fs *fs;
	int err;

	snprintf(home, sizeof(home), "%s/share", getenv("DIR"));
	mkdir(home, 0755);
	c.root_fd = open(home, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CHECK(c.root_fd >= 0);
	fs = fs_new(&c, &err);
	CHECK_EQ(err, 0);
	close(c.root_fd);
	return fs;
}

/* One request; its errno, and *out is where its answer's payload is. */
static int ask(struct driver *d, uint32_t opcode, uint64_t node, const void *arg, uint32_t len, const char *name, void **out)
{
	struct fuse_in_header h = { .opcode = opcode, .nodeid = node, .unique = ++d->unique, .pid = 1 };
	uint32_t text = name ? (uint32_t)strlen(name) + 1 : 0;
	bool quiet = opcode == FUSE_FORGET;
	struct fuse_out_header *answer = guest_ptr(&d->g, AT_DATA + 0x10000);
	uint8_t *at = guest_ptr(&d->g, AT_DATA);

	h.len = (uint32_t)sizeof(h) + len + text;
	memcpy(at, &h, sizeof(h));
	memcpy(at + sizeof(h), arg, len);
	memcpy(at + sizeof(h) + len, name ? name : "", text);
	guest_desc(&d->g, 0, AT_DATA, h.len, quiet ? 0 : D_NEXT, 1);
	guest_desc(&d->g, 1, AT_DATA + 0x10000, 4096, D_WRITE, 0);
	guest_offer(&d->g, 0);
	guest_kick(&d->g);
	guest_take(&d->g, NULL);
	if (quiet)
		return 0;
	CHECK_EQ(answer->unique, h.unique);
	if (out)
		*out = answer + 1;
	return -answer->error;
}

static void start(struct driver *d, struct fs *fs, uint32_t id)
{
	int err;

	guest_open(&d->g, 8, RING_EVENT_IDX);
	d->fs = fs;
	d->id = id;
	d->unique = 0;
	d->worker = fs_start(fs, d->g.ring, d->g.kick_fd, &d->g.irq, d->g.event_fd, &err);
	CHECK_EQ(err, 0);
}

static void stop(struct driver *d)
{
	worker_free(d->worker);
	guest_close(&d->g);
}

static void mount(struct driver *d)
{
	struct fuse_init_in in = { .major = 7, .minor = 41, .flags = ~0u, .flags2 = ~0u };

	CHECK_EQ(ask(d, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL), 0);
}

/* Everything that shares something, on few files, so that threads meet. */
static void *work(void *arg)
{
	struct driver *d = arg;
	uint32_t luck = d->id * 7919 + 1;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct fuse_create_in create = { .flags = O_RDWR, .mode = S_IFREG | 0644 };
		struct fuse_getattr_in getattr = { 0 };
		struct fuse_forget_in forget = { .nlookup = 1 };
		struct fuse_open_in open_in = { 0 };
		char name[16];
		void *out;
		int err;

		luck = luck * 1103515245 + 12345;
		snprintf(name, sizeof(name), "f%u", luck >> 16 & (T_NODES - 1));
		err = ask(d, FUSE_CREATE, 1, &create, sizeof(create), name, &out);
		if (!err) {
			struct fuse_entry_out entry = *(struct fuse_entry_out *)out;
			uint64_t fh = ((struct fuse_open_out *)((struct fuse_entry_out *)out + 1))->fh;
			struct fuse_lk_in lk = { .fh = fh, .owner = d->id, .lk = { .end = INT64_MAX, .type = F_WRLCK } };
			struct fuse_flush_in flush = { .fh = fh, .lock_owner = d->id };
			struct fuse_read_in read_in = { .fh = fh, .size = 100 };
			struct fuse_release_in release = { .fh = fh };

			err = ask(d, FUSE_GETATTR, entry.nodeid, &getattr, sizeof(getattr), NULL, NULL);
			CHECK(err == 0 || err == ESTALE);
			CHECK_EQ(ask(d, FUSE_READ, entry.nodeid, &read_in, sizeof(read_in), NULL, NULL), 0);
			/* Waits, at times, for the other threads' turn. */
			CHECK_EQ(ask(d, FUSE_SETLKW, entry.nodeid, &lk, sizeof(lk), NULL, NULL), 0);
			CHECK_EQ(ask(d, FUSE_FLUSH, entry.nodeid, &flush, sizeof(flush), NULL, NULL), 0);
			CHECK_EQ(ask(d, FUSE_RELEASE, entry.nodeid, &release, sizeof(release), NULL, NULL), 0);
			ask(d, FUSE_FORGET, entry.nodeid, &forget, sizeof(forget), NULL, NULL);
		} else {
			CHECK(err == ENOENT || err == ESTALE);
		}
		if (i % 5 == 0)
			ask(d, FUSE_UNLINK, 1, "", 0, name, NULL);
		if (i % 16 == 0 && ask(d, FUSE_OPENDIR, 1, &open_in, sizeof(open_in), NULL, &out) == 0) {
			struct fuse_read_in page = { .fh = ((struct fuse_open_out *)out)->fh, .size = 4000 };
			struct fuse_release_in release = { .fh = page.fh };

			CHECK_EQ(ask(d, FUSE_READDIRPLUS, 1, &page, sizeof(page), NULL, NULL), 0);
			CHECK_EQ(ask(d, FUSE_RELEASEDIR, 1, &release, sizeof(release), NULL, NULL), 0);
		}
	}
	return NULL;
}

static void threads(uint32_t flags, bool one_server)
{
	static struct driver d[3];
	struct fs *fs[2] = { share(flags, 16), one_server ? NULL : share(flags, 16) };
	struct fs_stats stats;

	for (uint32_t i = 0; i < 3; i++)
		start(&d[i], i && !one_server ? fs[1] : fs[0], i + 1);
	mount(&d[0]);
	if (!one_server)
		mount(&d[1]);
	for (uint32_t i = 0; i < 3; i++)
		CHECK(pthread_create(&d[i].thread, NULL, work, &d[i]) == 0);
	for (uint32_t i = 0; i < 3; i++) {
		fs_get_stats(fs[0], &stats);
		CHECK(pthread_join(d[i].thread, NULL) == 0);
	}
	fs_get_stats(fs[0], &stats);
	CHECK_EQ(stats.files, 0);
	CHECK(stats.fds <= 48);
	/* Nothing is lost when they go while nodes are known. */
	for (uint32_t i = 0; i < 3; i++)
		stop(&d[i]);
	fs_reset(fs[0]);
	fs_get_stats(fs[0], &stats);
	CHECK_EQ(stats.nodes, 0);
	CHECK(stats.ops[FUSE_CREATE] >= ROUNDS);
	fs_free(fs[0]);
	fs_free(fs[1]);
}

static void queues_of_one_share(void)
{
	threads(0, true);
}

static void queues_without_handles(void)
{
	threads(0, true);
}

static void queues_without_marks(void)
{
	threads(FS_NO_MARKS, true);
}

static void two_shares_of_one_directory(void)
{
	threads(0, false);
}

static void unmounted_while_others_work(void)
{
	static struct driver d[2];
	struct fs *fs = share(0, 16);

	start(&d[0], fs, 1);
	start(&d[1], fs, 2);
	mount(&d[0]);
	for (int i = 0; i < 200; i++) {
		struct fuse_create_in create = { .flags = O_RDWR, .mode = S_IFREG | 0644 };
		int err;

		guest_desc(&d[1].g, 4, AT_DATA + 0x20000, sizeof(struct fuse_in_header), D_NEXT, 5);
		guest_desc(&d[1].g, 5, AT_DATA + 0x21000, 4096, D_WRITE, 0);
		*(struct fuse_in_header *)guest_ptr(&d[1].g, AT_DATA + 0x20000) =
			(struct fuse_in_header){ .len = sizeof(struct fuse_in_header), .opcode = FUSE_DESTROY };
		guest_offer(&d[1].g, 4);
		guest_kick(&d[1].g);
		err = ask(&d[0], FUSE_CREATE, 1, &create, sizeof(create), "file", NULL);
		CHECK(err == 0 || err == EIO || err == ESTALE);
		guest_take(&d[1].g, NULL);
		mount(&d[0]);
	}
	stop(&d[0]);
	stop(&d[1]);
	fs_free(fs);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(queues_of_one_share),
	T(queues_without_handles),
	T(queues_without_marks),
	T(two_shares_of_one_directory),
	T(unmounted_while_others_work),
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
