// SPDX-License-Identifier: Apache-2.0
/*
 * Decides whether a file is the one of a node. An inode number is not enough: it is reused after a file was removed, and on
 * overlayfs a copy-up gives a file another number and another birth time. So
 *
 * - a node with an open descriptor is compared by that: its file exists, no other file has its number, and the descriptor
 *   follows a copy-up;
 * - a node whose descriptor was closed is compared by its file handle, which has a generation, or by what the file system
 *   gives in place of one (a mark);
 * - without either, it is compared by name and number.
 *
 * Decision 0009 has the details for each file system.
 */
#include "fs/fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

/* UNSURE: more must be read of the file. */
enum verdict { NO, YES, UNSURE };

/* Whether the file has these numbers now. Does not wait for a disk or a FUSE server. */
static bool fd_has_numbers(int fd, const struct statx *st)
{
	struct statx now;

	return !statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_MNT_ID, &now) &&
	       now.stx_ino == st->stx_ino && now.stx_dev_major == st->stx_dev_major &&
	       now.stx_dev_minor == st->stx_dev_minor;
}

/*
 * Whether two descriptors are of one inode of the kernel: inotify refuses a second watch of an inode. Used only where numbers
 * are not enough: on overlayfs, two links of a lower layer have one number until one is written, but are two files.
 */
static bool fd_is_inode(int a, int b)
{
	const uint32_t mask = IN_DELETE_SELF | IN_MASK_CREATE;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	bool same = false;

	if (fd < 0)
		return false;
	if (inotify_add_watch(fd, fs_fd_name(a).text, mask) >= 0)
		same = inotify_add_watch(fd, fs_fd_name(b).text, mask) < 0 && errno == EEXIST;
	close(fd);
	return same;
}

/* Compare marks; the descriptor of the node is closed. */
static enum verdict node_has_mark(const struct fs_nodes *t, const struct node *n, struct look *l)
{
	const struct fs_domain *d = &t->domain[l->domain];

	if (!l->marked && l->fd < 0)
		return UNSURE;
	if (!l->marked && fs_handle_at(l->fd, "", d->mark, &l->mark))
		return NO;
	l->marked = true;
	if (l->mark.len != n->handle_len || l->mark.type != n->handle_type)
		return NO;
	return memcmp(l->mark.bytes, n->handle_len <= FS_HANDLE_INLINE ? n->handle : n->long_handle, n->handle_len) ? NO : YES;
}

/* named: the node was found by the name of the file. */
static enum verdict node_is(const struct fs_nodes *t, uint32_t index, struct look *l, bool named)
{
	const struct fs_domain *d = &t->domain[l->domain];
	const struct node *n = &t->node[index];
	bool numbers = n->domain == l->domain && n->ino == l->st.stx_ino, linked;
	enum verdict v;

	if (n->type != (l->st.stx_mode & S_IFMT) || t->domain[n->domain].mnt_id != d->mnt_id)
		return NO;
	if (!d->renumbers && !numbers)
		return NO;
	linked = d->renumbers && !named && n->type != S_IFDIR && l->st.stx_nlink > 1;
	if (n->fd >= 0) {
		if (!d->renumbers)
			return YES;
		if (!fd_has_numbers(n->fd, &l->st))
			return NO;
		if (!linked)
			return YES;
		return l->fd < 0 ? UNSURE : fd_is_inode(n->fd, l->fd) ? YES : NO;
	}
	if (linked)
		return NO;
	if (n->handle_len) {
		v = node_has_mark(t, n, l);
		/* The name may have changed between reading its numbers and its mark. */
		return v == YES && !numbers && l->fd < 0 ? UNSURE : v;
	}
	/* Only name and number are left; on overlayfs without xino, even the number of a directory changes. */
	if (l->made || !named)
		return numbers && !l->made && !d->renumbers ? YES : NO;
	return numbers || (d->renumbers && n->type == S_IFDIR) ? YES : NO;
}

static enum verdict look_match(struct fs_nodes *t, struct look *l, uint32_t *found)
{
	enum verdict v = NO;
	uint32_t index = 0, next;

	if (t->domain[l->domain].mount_fd < 0 && l->name)
		index = node_named(t, l->dir->index, l->name);
	if (index)
		v = node_is(t, index, l, true);
	if (v == NO) {
		for (index = *node_bucket(t, l->domain, l->st.stx_ino); index; index = next) {
			next = t->node[index].hash_next;
			if (t->node[index].domain != l->domain || t->node[index].ino != l->st.stx_ino)
				continue;
			v = node_is(t, index, l, false);
			if (v != NO)
				break;
			/* The file of that node was removed, and its number was reused. */
			if (!t->domain[l->domain].renumbers)
				node_unhash(t, index);
		}
	}
	*found = v == YES ? index : 0;
	if (*found)
		node_renumber(t, *found, l->domain, l->st.stx_ino);
	return v;
}

uint32_t look_find(struct fs_nodes *t, struct look *l)
{
	uint32_t index;

	look_match(t, l, &index);
	return index;
}

bool look_is(struct fs_nodes *t, uint32_t index, struct look *l)
{
	if (node_is(t, index, l, true) != YES)
		return false;
	node_renumber(t, index, l->domain, l->st.stx_ino);
	return true;
}

uint32_t look_named(struct fs *fs, struct look *l, int *err)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index = 0;
	uint32_t domain;
	int mark;

	for (;;) {
		*err = l->fd < 0 ? fs_statx(l->dir->fd, l->name, &l->st) : fs_statx(l->fd, "", &l->st);
		pthread_mutex_lock(&t->lock);
		domain = *err ? 0 : node_domain(t, &l->st);
		if (!domain)
			return 0;
		l->domain = domain;
		if (look_match(t, l, &index) != UNSURE)
			return index;
		mark = t->domain[domain].mark;
		pthread_mutex_unlock(&t->lock);
		/* Not under the lock: it may wait for a disk. */
		if (!l->marked && mark >= 0 && !fs_handle_at(l->dir->fd, l->name, mark, &l->mark)) {
			l->marked = true;
			continue;
		}
		l->marked = false;
		l->fd = fs_open_beneath(l->dir->fd, l->name, O_PATH);
		if (l->fd < 0) {
			*err = l->fd;
			pthread_mutex_lock(&t->lock);
			return 0;
		}
	}
}
