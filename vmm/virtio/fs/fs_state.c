// SPDX-License-Identifier: Apache-2.0
/*
 * Saves and restores the nodes and open files of a share; docs/reference/snapshot-format.md has the layout.
 *
 * A node is found again by the names of its directories and its own name. If the shared directory is the same one as before,
 * it must be the same file, by its file handle and its number; else, a file of the same type, which keeps the number that the
 * guest knows (fs_ino.c). A node that is not found is ESTALE from then on, and so is what is open of it. So nothing is
 * opened that the guest could not look up, whatever the saved bytes are.
 */
#include "fs/fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MARK_MAX = sizeof(((struct fs_file_handle *)0)->bytes) };
enum { STATE_OLDER = 2, STATE_UNBORN = 3, STATE_VERSION = 4, STATE_MAX = 256 << 20, BUF_SIZE = 64 << 10 };

enum { TOLD_UNKNOWN = UINT32_MAX };

/*
 * From version 4 on, a u64 follows: when the root was made (ns; 0: not known). Then nodes, open files and, from version 3 on,
 * what the guest was told (struct told).
 */
struct state_head {
	uint32_t version, nnodes, nfiles;
	uint32_t node_top, node_gen; /* all node ids so far have an index and a generation below these */
	uint32_t file_top, file_gen; /* the same for handles of open files */
	uint32_t root_major, root_minor;
	uint32_t ntold;              /* records (struct told); TOLD_UNKNOWN: a restore takes all files for changed */
	uint64_t root_ino;
	uint64_t features;           /* negotiated by FUSE_INIT; 0: the share is not mounted */
};

/* The name follows, without a NUL, and then its mark (struct fs_domain). */
struct state_node {
	uint64_t ino, nlookup;
	uint32_t index, gen, parent;
	uint16_t type, name_len;     /* name_len 0: it cannot be found again */
	uint64_t told;               /* the number of its inode that the guest was told */
	int32_t mark_type;
	uint32_t mark_len;           /* 0: it has none */
};

struct state_file {
	uint64_t node;               /* the id of its node */
	uint32_t index, gen, flags;
	uint32_t kind;
};

struct out {
	int fd, err;
	uint32_t len;
	off_t at;
	uint8_t *buf;
};

static void out_flush(struct out *o)
{
	if (!o->err)
		o->err = file_write(o->fd, o->buf, o->len, (uint64_t)o->at);
	o->at += o->len;
	o->len = 0;
}

static void out_put(struct out *o, const void *data, size_t len)
{
	if (o->len + len > BUF_SIZE)
		out_flush(o);
	memcpy(o->buf + o->len, data, len);
	o->len += (uint32_t)len;
}

/* Append to the list of obstacles; text has FS_TEXT bytes. */
static void text_add(char *text, const char *more)
{
	size_t len = strlen(text);

	snprintf(text + len, FS_TEXT - len, "%s%s", len ? ", " : "", more);
	for (; text[len]; len++)
		if ((unsigned char)text[len] < ' ' || text[len] == 0x7f)
			text[len] = '?';
}

static void text_add_file(struct fs *fs, char *text, const char *what, int fd)
{
	char path[FS_NAME_MAX + 1], more[sizeof(path) + 64];
	ssize_t n = readlinkat(fs->proc_fd, fs_fd_name(fd).text, path, sizeof(path) - 1);

	path[n < 0 ? 0 : n] = 0;
	snprintf(more, sizeof(more), "%s%s", what, n < 0 ? "a file" : path);
	text_add(text, more);
}

static void text_add_lock(struct fs *fs, char *text, const char *kind, int fd, uint32_t pid)
{
	char what[48];

	snprintf(what, sizeof(what), "a %s lock of process %u on ", kind, pid);
	text_add_file(fs, text, what, fd);
}

/* 0; or -EBUSY: some state could not be restored, which text lists. */
static int state_check(struct fs *fs, char *text)
{
	struct fs_nodes *t = fs->nodes;
	const struct fs_file *f;
	uint32_t index = 0, owner = 0, node, pid;
	int fd;

	*text = 0;
	if (t->count && fs->config.flags & FS_HANDLES)
		text_add(text, "files that are known by handle (handles)");
	while (fs_lock_next(fs, &owner, &fd, &pid))
		text_add_lock(fs, text, "POSIX", fd, pid);
	while ((f = fs_file_next(fs, &index))) {
		if (f->kind == FS_GONE)
			continue;
		node = node_of(t, f->node);
		if (f->locked)
			text_add_lock(fs, text, "flock()", f->fd, f->lock_pid);
		if (!node || (node != ROOT && !t->node[node].name))
			text_add_file(fs, text, "", f->fd);
	}
	return *text ? -EBUSY : 0;
}

/* Its mark, if it has one. Nodes without a descriptor have kept theirs. */
static void node_mark(const struct fs_nodes *t, const struct node *n, struct fs_file_handle *h)
{
	const struct fs_domain *d = &t->domain[n->domain];

	h->len = 0;
	if (d->mark < 0 || !n->name)
		return;
	if (n->handle_len) {
		h->len = n->handle_len;
		h->type = n->handle_type;
		memcpy(h->bytes, h->len <= FS_HANDLE_INLINE ? n->handle : n->long_handle, h->len);
	} else if (n->fd < 0 || fs_handle_at(n->fd, "", d->mark, h)) {
		h->len = 0;
	}
}

static void put_nodes(struct fs_nodes *t, struct out *o, struct state_head *head)
{
	struct fs_file_handle mark;

	for (uint32_t i = ROOT + 1; i < t->top; i++) {
		const struct node *n = &t->node[i];
		struct state_node record = {
			.ino = n->ino,
			.nlookup = n->nlookup,
			.index = i,
			.gen = n->gen,
			.parent = n->parent,
			.type = n->type,
			.name_len = n->name ? (uint16_t)strlen(n->name) : 0,
			.told = ino_told(t, i, n->ino),
		};

		if (n->gen >= head->node_gen)
			head->node_gen = n->gen + 1;
		if (!n->used)
			continue;
		node_mark(t, n, &mark);
		record.mark_len = mark.len;
		record.mark_type = mark.len ? mark.type : 0;
		out_put(o, &record, sizeof(record));
		if (n->name)
			out_put(o, n->name, record.name_len);
		out_put(o, mark.bytes, mark.len);
		head->nnodes++;
	}
}

static void put_files(struct fs *fs, struct out *o, struct state_head *head)
{
	const struct fs_file *f;
	uint32_t index = 0;

	while ((f = fs_file_next(fs, &index))) {
		int flags = f->fd < 0 ? 0 : fcntl(f->fd, F_GETFL);
		struct state_file record = {
			.node = f->node,
			.index = index,
			.gen = f->gen,
			.kind = f->kind,
			.flags = flags < 0 ? 0 : (uint32_t)flags,
		};

		out_put(o, &record, sizeof(record));
		head->nfiles++;
	}
}

static int put_told(struct fs *fs, struct out *o, struct state_head *head)
{
	struct told *list = malloc(TOLD_MAX * sizeof(*list));
	int count;

	if (!list)
		return -ENOMEM;
	count = fs_told_list(fs, list);
	head->ntold = count < 0 ? TOLD_UNKNOWN : (uint32_t)count;
	for (int i = 0; i < count; i++)
		out_put(o, &list[i], sizeof(list[i]));
	free(list);
	return 0;
}

/* A new directory can have the number of one that was removed a moment ago. */
static uint64_t root_birth(const struct fs *fs)
{
	struct statx st;

	if (fs_statx(fs->root_fd, "", &st) || !(st.stx_mask & STATX_BTIME))
		return 0;
	return (uint64_t)st.stx_btime.tv_sec * 1000000000u + st.stx_btime.tv_nsec;
}

int fs_save(struct fs *fs, int fd, char *text)
{
	struct state_head head = { .version = STATE_VERSION, .features = fs->features, .node_gen = 1 };
	struct fs_nodes *t = fs->nodes;
	const uint64_t birth = root_birth(fs);
	struct out o = { .fd = fd, .at = sizeof(head) };
	int err = state_check(fs, text);

	if (err)
		return err;
	o.buf = malloc(BUF_SIZE);
	if (!o.buf)
		return -ENOMEM;
	head.node_top = t->top;
	head.root_ino = t->node[ROOT].ino;
	head.root_major = t->domain[t->node[ROOT].domain].major;
	head.root_minor = t->domain[t->node[ROOT].domain].minor;
	out_put(&o, &birth, sizeof(birth));
	put_nodes(t, &o, &head);
	fs_files_limits(fs, &head.file_top, &head.file_gen);
	put_files(fs, &o, &head);
	err = put_told(fs, &o, &head);
	out_flush(&o);
	o.at = 0;
	out_put(&o, &head, sizeof(head));
	out_flush(&o);
	free(o.buf);
	return err ? err : o.err;
}

/* -- restoring ----------------------------------------------------------------------------------------------- */

struct in {
	const uint8_t *at;
	size_t left;
};

static bool in_get(struct in *in, void *to, size_t len)
{
	if (in->left < len)
		return false;
	memcpy(to, in->at, len);
	in->at += len;
	in->left -= len;
	return true;
}

static bool name_is_valid(const char *name, size_t len)
{
	return len && len <= FS_NAME_MAX && strlen(name) == len && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static bool type_is_valid(uint16_t type)
{
	return type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFIFO || type == S_IFSOCK || type == S_IFCHR ||
	       type == S_IFBLK;
}

/* Add a node, without its name: its directory may come later. */
static int get_node(struct fs *fs, struct in *in, const struct state_head *head)
{
	struct fs_nodes *t = fs->nodes;
	struct state_node r;
	struct node *n;

	if (!in_get(in, &r, sizeof(r)) || r.mark_len > MARK_MAX || in->left < r.name_len + r.mark_len || r.index <= ROOT || r.index >= head->node_top || !r.gen ||
	    r.gen >= head->node_gen || !type_is_valid(r.type) || t->node[r.index].used)
		return -EINVAL;
	in->at += r.name_len + r.mark_len;
	in->left -= r.name_len + r.mark_len;
	if (!node_fits(t, NULL))
		return -ENFILE;
	n = &t->node[r.index];
	*n = (struct node){ .gen = r.gen, .fd = -1, .used = true, .ino = r.ino, .nlookup = r.nlookup, .type = r.type };
	node_count(t);
	ino_keep(t, r.index, r.told);
	return 0;
}

/* Its name, and its mark. */
static int get_name(struct fs *fs, struct in *in)
{
	struct fs_nodes *t = fs->nodes;
	char name[FS_NAME_MAX + 1] = "";
	struct fs_file_handle mark;
	struct state_node r;

	in_get(in, &r, sizeof(r));
	if (r.name_len > FS_NAME_MAX || !in_get(in, name, r.name_len) || !in_get(in, mark.bytes, r.mark_len))
		return -EINVAL;
	if (!r.name_len)
		return 0;
	if (!name_is_valid(name, r.name_len))
		return -EINVAL;
	if (r.parent < ROOT || r.parent >= t->top || !t->node[r.parent].used || r.parent == r.index ||
	    node_named(t, r.parent, name))
		return -EINVAL;
	node_set_name(t, r.index, r.parent, name);
	mark.len = r.mark_len;
	mark.type = r.mark_type;
	return mark.len && node_keep(t, &t->node[r.index], &mark) ? -ENFILE : 0;
}

/* Whether a file with that name is the one that the node was: in the same directory; in another one, its type is enough. */
static bool node_was(struct fs *fs, struct node *n, uint32_t domain, int fd, const struct statx *st, bool same)
{
	const struct fs_domain *d = &fs->nodes->domain[domain];
	struct fs_file_handle h;

	if (n->type != (st->stx_mode & S_IFMT) || node_known(fs, domain, st->stx_ino))
		return false;
	if (!same)
		return true;
	if (!d->renumbers && n->ino != st->stx_ino)
		return false;
	if (!n->handle_len || d->mark < 0)
		return true;
	return !fs_handle_at(fd, "", d->mark, &h) && h.len == n->handle_len && h.type == n->handle_type &&
	       !memcmp(h.bytes, h.len <= FS_HANDLE_INLINE ? n->handle : n->long_handle, h.len);
}

/* Open the file of a node that has a name and whose directory is open. 0 or -errno. */
static int node_find(struct fs *fs, uint32_t index, const struct fs_ref *dir, bool same)
{
	struct fs_nodes *t = fs->nodes;
	struct node *n = &t->node[index];
	struct statx st;
	int fd = fs_open_beneath(dir->fd, n->name, O_PATH), domain;
	uint32_t held = 0;

	if (fd < 0)
		return fd;
	domain = fs_statx(fd, "", &st);
	if (!domain)
		domain = node_domain_get(fs, fd, &st);
	held = domain > 0 ? (uint32_t)domain : 0;
	if (held && !node_was(fs, n, held, fd, &st, same))
		domain = -ESTALE;
	/* That of another directory's file is not its own; it is read again when it is needed. */
	node_drop_mark(t, n);
	pthread_mutex_lock(&t->lock);
	if (domain > 0) {
		node_crossed(fs, dir, n->name, held);
		node_renumber(t, index, held, st.stx_ino);
		ino_settle(t, index, st.stx_ino);
		node_set_fd(t, index, fd);
	}
	node_domain_put(t, held);
	pthread_mutex_unlock(&t->lock);
	if (domain < 0)
		close(fd);
	return domain < 0 ? domain : 0;
}

/* Open the file of a node, and its directories first. A node whose file was found is hashed; any other loses its name. */
static bool node_resolve(struct fs *fs, uint32_t index, bool same, uint32_t depth)
{
	struct fs_nodes *t = fs->nodes;
	struct node *n = &t->node[index];
	struct fs_ref dir;
	int err = -ELOOP;

	if (n->hashed || !n->name)
		return n->hashed;
	if (depth && node_resolve(fs, n->parent, same, depth - 1)) {
		pthread_mutex_lock(&t->lock);
		node_use(t, n->parent, &dir);
		pthread_mutex_unlock(&t->lock);
		err = dir.fd >= 0 ? 0 : node_hold(fs, &dir, NODE_DEPTH);
		if (!err)
			err = node_find(fs, index, &dir, same);
		fs_node_put(fs, &dir);
	}
	if (err) {
		pthread_mutex_lock(&t->lock);
		node_drop_name(t, index);
		node_free(t, index);
		pthread_mutex_unlock(&t->lock);
	}
	return !err;
}

/* Restore an open file. 1: it cannot be opened any more, and is ESTALE. */
static int get_file(struct fs *fs, struct in *in, const struct state_head *head)
{
	struct fs_nodes *t = fs->nodes;
	struct state_file r;
	struct fs_ref ref;
	int flags, fd, err;

	if (!in_get(in, &r, sizeof(r)) || r.kind < FS_REGULAR || r.kind > FS_GONE || r.index == 0 || r.index >= head->file_top ||
	    r.gen >= head->file_gen)
		return -EINVAL;
	flags = (int)r.flags & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC);
	flags = r.kind == FS_DIRECTORY ? O_RDONLY | O_DIRECTORY : flags | O_NOCTTY | O_NONBLOCK;
	fd = -ESTALE;
	if (r.kind != FS_GONE && !fs_node_use(fs, r.node, &ref)) {
		if (t->node[ref.index].hashed && ref.type == (r.kind == FS_DIRECTORY ? S_IFDIR : S_IFREG) &&
		    !fs_node_closed(fs, &ref))
			fd = fs_node_open(fs, &ref, flags);
		fs_node_put(fs, &ref);
	}
	if (fd < 0) {
		err = fs_file_restore(fs, r.index, r.gen, FS_GONE, -1, r.node);
		return err ? err : r.kind != FS_GONE;
	}
	return fs_file_restore(fs, r.index, r.gen, (enum fs_kind)r.kind, fd, r.node);
}

/* What the guest was told. same: of the same directory. */
static int get_told(struct fs *fs, struct in *in, const struct state_head *head, bool same)
{
	const struct fs_nodes *t = fs->nodes;
	struct told one;

	if (head->version == STATE_OLDER || head->ntold == TOLD_UNKNOWN) {
		for (uint32_t i = ROOT + 1; i < t->top; i++)
			if (t->node[i].used && t->node[i].hashed)
				told_lost(fs, t->node[i].domain);
		return 0;
	}
	if (head->ntold > TOLD_MAX)
		return -EINVAL;
	for (uint32_t i = head->ntold; i; i--) { /* the newest was written first, and is the last one that is told */
		if (in->left < i * sizeof(one))
			return -EINVAL;
		memcpy(&one, in->at + (i - 1) * sizeof(one), sizeof(one));
		if (!same)
			one.ctime = one.own = 0;
		told_again(fs, &one);
	}
	in->at += head->ntold * sizeof(one);
	in->left -= head->ntold * sizeof(one);
	return 0;
}

static bool root_is_same(const struct fs *fs, const struct state_head *head, uint64_t birth)
{
	const struct node *root = &fs->nodes->node[ROOT];
	const struct fs_domain *d = &fs->nodes->domain[root->domain];
	const uint64_t now = birth ? root_birth(fs) : 0;

	return head->root_ino == root->ino && head->root_major == d->major && head->root_minor == d->minor &&
	       (!birth || !now || birth == now);
}

static int state_restore(struct fs *fs, struct in in, uint32_t *gone)
{
	struct fs_nodes *t = fs->nodes;
	struct state_head head;
	struct in names;
	uint64_t birth = 0;
	bool same;
	int err = 0;

	if (!in_get(&in, &head, sizeof(head)) || head.version < STATE_OLDER || head.version > STATE_VERSION || !head.node_gen ||
	    head.node_top < ROOT + 1 || (head.version > STATE_UNBORN && !in_get(&in, &birth, sizeof(birth))))
		return -EINVAL;
	if (!fs_features_are_offered(fs, head.features))
		return -EPROTO;
	if (head.node_top > t->max)
		return -ENFILE;
	same = root_is_same(fs, &head, birth);
	if (!same && head.nnodes && fs->config.cache == FS_CACHE_ALWAYS)
		return -EXDEV;
	names = in;
	t->top = head.node_top;
	/* Fewer fit into the file. */
	if (head.nnodes > in.left / sizeof(struct state_node))
		return -EINVAL;
	err = inos_init(t, head.nnodes);
	for (uint32_t i = 0; i < head.nnodes && !err; i++)
		err = get_node(fs, &in, &head);
	/* Without the lock: no other thread uses the share yet. */
	nodes_settle(t, head.node_gen);
	for (uint32_t i = 0; i < head.nnodes && !err; i++)
		err = get_name(fs, &names);
	for (uint32_t i = ROOT + 1; i < t->top && !err; i++)
		*gone += t->node[i].used && !node_resolve(fs, i, same, NODE_DEPTH);
	inos_settle(t);
	for (uint32_t i = 0; i < head.nfiles && err >= 0; i++) {
		err = get_file(fs, &in, &head);
		*gone += err > 0;
	}
	if (err >= 0)
		err = get_told(fs, &in, &head, same);
	if (err >= 0)
		err = in.left ? -EINVAL : fs_files_settle(fs, head.file_top, head.file_gen);
	if (!err)
		__atomic_store_n(&fs->features, head.features, __ATOMIC_RELEASE);
	return err;
}

int fs_restore(struct fs *fs, int fd, uint32_t *gone)
{
	off_t size = lseek(fd, 0, SEEK_END);
	uint8_t *raw;
	int err = 0;

	*gone = 0;
	if (size < 0 || size > STATE_MAX)
		return -EINVAL;
	raw = malloc((size_t)size + 1);
	if (!raw)
		return -ENOMEM;
	for (off_t at = 0; at < size && !err;) {
		ssize_t n = pread(fd, raw + at, (size_t)(size - at), at);

		err = n < 0 ? -errno : n == 0 ? -EINVAL : 0;
		at += n > 0 ? n : 0;
	}
	fs_reset(fs);
	if (!err)
		err = state_restore(fs, (struct in){ .at = raw, .left = (size_t)size }, gone);
	if (err) {
		fs_reset(fs);
		inos_free(fs->nodes);
	}
	free(raw);
	return err;
}
