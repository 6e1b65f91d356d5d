// SPDX-License-Identifier: Apache-2.0
/*
 * Locks of flock() and fcntl(). They are taken on the host's files, so that they hold against other guests and the host, too.
 *
 * A flock() of the guest is a flock() of the same open file on the host. A POSIX lock of fcntl() belongs to a process, which
 * FUSE identifies by an "owner". Each owner has a descriptor of its own for each file that it locks, and its locks are open
 * file description locks of that. At FLUSH the owner has closed the file: its descriptor is closed, which releases its
 * locks. Until then it is kept, also when the owner has released them. The owner of an open file description lock in the guest is the open file: RELEASE releases it, which comes after
 * the FLUSH of every process.
 *
 * Linux's virtio-fs driver does not send INTERRUPT, so a process that waits for a lock cannot be killed. Therefore a share
 * can leave locks to the guest (FS_NO_LOCKS: they are not offered).
 *
 * A request that waits must not block the queue. It is tried without waiting, and queued if that fails. The worker tries it
 * again, at once when a lock of this share was released, else at intervals that grow up to WAIT_MAX_NS: the host's kernel
 * cannot wait for a lock and for other events at the same time.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <unistd.h>

enum { MAX_OWNERS = 1024, OWNER_RANGES = 16 };
enum { WAIT_MIN_NS = 1000 * 1000, WAIT_MAX_NS = 64 * 1000 * 1000 };

struct range {
	uint64_t start, end; /* the last byte */
};

struct owner {
	uint64_t node, owner;
	uint64_t fh;         /* of its last request */
	int fd;
	uint32_t pid;        /* of the process in the guest that locked last */
	uint32_t nranges;    /* those that are locked, apart from each other, in no order */
	bool many;           /* there were more than fit; it has a lock until it releases all */
	struct range range[OWNER_RANGES];
};

struct fs_locks {
	pthread_mutex_t lock;
	uint32_t count;   /* atomic: read without the lock, too */
	uint64_t gen;     /* atomic: grows when a lock is released */
	struct owner owner[MAX_OWNERS];
};

int fs_locks_init(struct fs *fs)
{
	fs->locks = calloc(1, sizeof(*fs->locks));
	if (!fs->locks)
		return -ENOMEM;
	pthread_mutex_init(&fs->locks->lock, NULL);
	return 0;
}

void fs_locks_free(struct fs *fs)
{
	if (!fs->locks)
		return;
	fs_locks_reset(fs);
	pthread_mutex_destroy(&fs->locks->lock);
	free(fs->locks);
}

static void given_back(struct fs_locks *l)
{
	__atomic_fetch_add(&l->gen, 1, __ATOMIC_RELEASE);
}

void fs_locks_reset(struct fs *fs)
{
	struct fs_locks *l = fs->locks;

	pthread_mutex_lock(&l->lock);
	for (uint32_t i = 0; i < l->count; i++)
		close(l->owner[i].fd);
	__atomic_store_n(&l->count, 0, __ATOMIC_RELAXED);
	given_back(l);
	pthread_mutex_unlock(&l->lock);
}

/* Remove a part of one of its ranges; what is left on both sides stays. */
static void range_cut(struct owner *o, uint32_t i, uint64_t start, uint64_t end)
{
	struct range r = o->range[i];

	o->range[i] = o->range[--o->nranges];
	if (r.start < start)
		o->range[o->nranges++] = (struct range){ r.start, start - 1 };
	if (r.end <= end)
		return;
	if (o->nranges < OWNER_RANGES)
		o->range[o->nranges++] = (struct range){ end + 1, r.end };
	else
		o->many = true;
}

/* What the owner has locked, after it has locked or unlocked a range. */
static void owner_note(struct owner *o, uint64_t start, uint64_t end, bool locked)
{
	if (start == 0 && end >= INT64_MAX) {
		o->nranges = 0;
		o->many = false;
	}
	for (uint32_t i = 0; i < o->nranges;) {
		struct range *r = &o->range[i];

		if (r->start > end || r->end < start) {
			i++;
		} else if (locked && r->start <= start && r->end >= end) {
			return;
		} else {
			range_cut(o, i, start, end);
			i = 0;
		}
	}
	if (locked && o->nranges < OWNER_RANGES)
		o->range[o->nranges++] = (struct range){ start, end };
	else if (locked)
		o->many = true;
}

static bool owner_holds(const struct owner *o)
{
	return o->nranges || o->many;
}

bool fs_lock_next(struct fs *fs, uint32_t *index, int *fd, uint32_t *pid)
{
	const struct fs_locks *l = fs->locks;

	for (; *index < l->count; ++*index) {
		const struct owner *o = &l->owner[*index];

		if (!owner_holds(o))
			continue;
		*fd = o->fd;
		*pid = o->pid;
		++*index;
		return true;
	}
	return false;
}

/* NULL: the owner has no lock on that file. Under the lock. */
static struct owner *owner_find(struct fs_locks *l, uint64_t node, uint64_t owner)
{
	for (uint32_t i = 0; i < l->count; i++)
		if (l->owner[i].owner == owner && l->owner[i].node == node)
			return &l->owner[i];
	return NULL;
}

/* Under the lock. */
static void owner_close(struct fs_locks *l, struct owner *o)
{
	close(o->fd);
	*o = l->owner[l->count - 1];
	__atomic_store_n(&l->count, l->count - 1, __ATOMIC_RELEASE);
	given_back(l);
}

void fs_locks_drop(struct fs *fs, uint64_t node, uint64_t owner)
{
	struct fs_locks *l = fs->locks;
	struct owner *o;

	if (!__atomic_load_n(&l->count, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&l->lock);
	o = owner_find(l, node, owner);
	if (o)
		owner_close(l, o);
	pthread_mutex_unlock(&l->lock);
}

void fs_locks_release(struct fs *fs, uint64_t fh)
{
	struct fs_locks *l = fs->locks;

	/* A lock of flock() was released with the descriptor. */
	given_back(l);
	if (!__atomic_load_n(&l->count, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&l->lock);
	for (uint32_t i = l->count; i-- > 0;)
		if (l->owner[i].fh == fh)
			owner_close(l, &l->owner[i]);
	pthread_mutex_unlock(&l->lock);
}

/* Open the owner's descriptor for the open file f, if it has none. Under the lock. */
static int owner_open(struct fs *fs, uint64_t node, const struct fuse_lk_in *in, const struct fs_file *f, struct owner **out)
{
	struct fs_locks *l = fs->locks;
	struct owner *o = owner_find(l, node, in->owner);
	int mode, fd;

	*out = o;
	if (o) {
		o->fh = in->fh;
		return 0;
	}
	for (uint32_t i = l->count; l->count == MAX_OWNERS && i-- > 0;)
		if (!owner_holds(&l->owner[i]))
			owner_close(l, &l->owner[i]);
	if (l->count == MAX_OWNERS)
		return -ENOLCK;
	/* A write lock requires a descriptor that is open for writing; the guest has checked its own one. */
	mode = fcntl(f->fd, F_GETFL);
	fd = -EROFS;
	if (!(fs->config.flags & FS_RO))
		fd = fs_reopen(fs, f->fd, O_RDWR | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		fd = fs_reopen(fs, f->fd, (mode & O_ACCMODE) | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fd;
	o = &l->owner[l->count];
	*o = (struct owner){ .node = node, .owner = in->owner, .fh = in->fh, .fd = fd };
	__atomic_store_n(&l->count, l->count + 1, __ATOMIC_RELEASE);
	*out = o;
	return 0;
}

static int to_flock(const struct fuse_file_lock *lk, struct flock *out)
{
	if (lk->start > INT64_MAX || lk->end < lk->start)
		return -EINVAL;
	if (lk->type != F_RDLCK && lk->type != F_WRLCK && lk->type != F_UNLCK)
		return -EINVAL;
	*out = (struct flock){
		.l_type = (short)lk->type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)lk->start,
		/* A range up to the largest offset: 0 means to the end of the file, however long it gets. */
		.l_len = lk->end >= INT64_MAX ? 0 : (off_t)(lk->end - lk->start + 1),
	};
	return 0;
}

static int set_flock(struct fs *fs, const struct fuse_lk_in *in, struct fs_file *f)
{
	int op;

	switch (in->lk.type) {
	case F_RDLCK:
		op = LOCK_SH;
		break;
	case F_WRLCK:
		op = LOCK_EX;
		break;
	case F_UNLCK:
		op = LOCK_UN;
		break;
	default:
		return -EINVAL;
	}
	if (flock(f->fd, op | LOCK_NB) < 0)
		return -errno;
	__atomic_store_n(&f->locked, op != LOCK_UN, __ATOMIC_RELAXED);
	__atomic_store_n(&f->lock_pid, in->lk.pid, __ATOMIC_RELAXED);
	/* A change from exclusive to shared can let others in, too. */
	if (op != LOCK_EX)
		given_back(fs->locks);
	return 0;
}

static int set_posix(struct fs *fs, uint64_t node, const struct fuse_lk_in *in, const struct fs_file *f)
{
	struct fs_locks *l = fs->locks;
	struct flock lock;
	struct owner *o;
	int err = to_flock(&in->lk, &lock);

	if (err)
		return err;
	pthread_mutex_lock(&l->lock);
	if (lock.l_type == F_UNLCK && !owner_find(l, node, in->owner)) {
		pthread_mutex_unlock(&l->lock);
		return 0;
	}
	err = owner_open(fs, node, in, f, &o);
	if (!err)
		err = fcntl(o->fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
	if (!err) {
		owner_note(o, in->lk.start, in->lk.end, lock.l_type != F_UNLCK);
		o->pid = in->lk.pid;
	}
	if (!err && lock.l_type != F_WRLCK)
		given_back(l);
	pthread_mutex_unlock(&l->lock);
	return err == -EACCES ? -EAGAIN : err;
}

/* Try a lock without waiting. -EAGAIN: another owner has it. */
static int lock_try(struct fs *fs, const struct fuse_in_header *h, const struct fuse_lk_in *in)
{
	struct fs_file *f = fs_file_get(fs, in->fh, FS_FREE);
	int err;

	if (!f)
		return fs_file_error(fs, in->fh);
	err = in->lk_flags & FUSE_LK_FLOCK ? set_flock(fs, in, f) : set_posix(fs, h->nodeid, in, f);
	fs_file_put(fs, f);
	return err;
}

int fs_op_setlk(struct fs_req *r)
{
	return lock_try(r->fs, &r->in, r->arg);
}

int fs_op_getlk(struct fs_req *r)
{
	const struct fuse_lk_in *in = r->arg;
	struct fuse_lk_out out = { .lk = in->lk };
	struct fs_file *f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	struct fs_locks *l = r->fs->locks;
	struct flock lock;
	struct owner *o;
	int fd, err = f ? to_flock(&in->lk, &lock) : fs_file_error(r->fs, in->fh);

	if (!f)
		return err;
	if (!err) {
		/* Use the owner's descriptor, so that its own locks do not conflict. */
		pthread_mutex_lock(&l->lock);
		o = owner_find(l, r->in.nodeid, in->owner);
		fd = o ? o->fd : fs_reopen(r->fs, f->fd, O_RDONLY | O_NONBLOCK | O_NOCTTY);
		err = fd < 0 ? fd : fcntl(fd, F_OFD_GETLK, &lock) < 0 ? -errno : 0;
		if (!o && fd >= 0)
			close(fd);
		pthread_mutex_unlock(&l->lock);
	}
	fs_file_put(r->fs, f);
	if (err)
		return err;
	out.lk.type = (uint32_t)lock.l_type;
	if (lock.l_type != F_UNLCK) {
		out.lk.start = (uint64_t)lock.l_start;
		out.lk.end = lock.l_len ? (uint64_t)(lock.l_start + lock.l_len - 1) : INT64_MAX;
		out.lk.pid = 0; /* the process may be of the host or another guest, so it has no pid here */
	}
	return fs_reply(r, &out, sizeof(out));
}

int fs_op_setlkw(struct fs_req *r)
{
	struct fs_queue *q = r->q;
	struct fs_wait *w;
	int err = lock_try(r->fs, &r->in, r->arg);

	if (err != -EAGAIN)
		return err;
	if (!q->wait)
		q->wait = calloc(FS_MAX_WAITS, sizeof(*q->wait));
	if (!q->wait)
		return -ENOMEM;
	if (q->nwaits == FS_MAX_WAITS)
		return -ENOLCK;
	w = &q->wait[q->nwaits++];
	w->in = r->in;
	memcpy(&w->lk, r->arg, sizeof(w->lk));
	w->started = clock_ns();
	w->head = r->head;
	w->nhdr = r->nhdr;
	memcpy(w->hdr, r->hdr, sizeof(w->hdr[0]) * r->nhdr);
	q->wait_ns = WAIT_MIN_NS;
	q->waited_at = w->started;
	q->waits_gen = __atomic_load_n(&r->fs->locks->gen, __ATOMIC_ACQUIRE);
	return FS_PENDING;
}

static void wait_end(struct fs_queue *q, uint32_t i, int err)
{
	struct fs_wait *w = &q->wait[i];

	fs_finish(q, w->head, w->hdr, w->nhdr, w->in.unique, err, 0);
	fs_account(q, FUSE_SETLKW, err, clock_ns() - w->started);
	*w = q->wait[--q->nwaits];
}

int fs_waits_run(struct fs_queue *q)
{
	uint64_t gen, now;
	int done = 0, err;

	if (!q->nwaits)
		return 0;
	gen = __atomic_load_n(&q->fs->locks->gen, __ATOMIC_ACQUIRE);
	now = clock_ns();
	if (gen == q->waits_gen && now - q->waited_at < q->wait_ns)
		return 0;
	if (gen != q->waits_gen)
		q->wait_ns = WAIT_MIN_NS;
	else if (q->wait_ns < WAIT_MAX_NS)
		q->wait_ns *= 2;
	q->waits_gen = gen;
	q->waited_at = now;
	for (uint32_t i = 0; i < q->nwaits;) {
		err = lock_try(q->fs, &q->wait[i].in, &q->wait[i].lk);
		if (err == -EAGAIN) {
			i++;
			continue;
		}
		wait_end(q, i, err);
		done++;
	}
	return done;
}

void fs_waits_sleep(struct fs_queue *q)
{
	struct epoll_event ready[2];
	int n = epoll_wait(q->worker.epoll_fd, ready, 2, (int)(q->wait_ns / 1000000));

	for (int i = 0; i < n; i++)
		if (ready[i].data.u64 == WORKER_KICK)
			stat_add(&q->worker.stats.kicks, 1);
}

void fs_waits_cancel(struct fs_queue *q, int err)
{
	while (q->nwaits)
		wait_end(q, q->nwaits - 1, err);
}

/* End the wait of a lock request. If that is on another queue, nothing happens. */
int fs_op_interrupt(struct fs_req *r)
{
	const struct fuse_interrupt_in *in = r->arg;

	for (uint32_t i = 0; i < r->q->nwaits; i++)
		if (r->q->wait[i].in.unique == in->unique) {
			wait_end(r->q, i, -EINTR);
			break;
		}
	return FS_NO_REPLY;
}
