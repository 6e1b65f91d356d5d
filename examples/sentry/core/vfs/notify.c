// SPDX-License-Identifier: Apache-2.0
/* inotify: what happens to files, for those who watch them. */
#include "calls.h"

enum {
	IN_UNMOUNT = 0x2000, IN_Q_OVERFLOW = 0x4000, IN_IGNORED = 0x8000, IN_ONLYDIR = 0x1000000, IN_DONT_FOLLOW = 0x2000000,
	IN_EXCL_UNLINK = 0x4000000, IN_MASK_CREATE = 0x10000000, IN_MASK_ADD = 0x20000000,
	ALL_EVENTS = 0xfff, MOST_QUEUED = 16384, EVENT_HEAD = 16,
};
#define IN_ONESHOT 0x80000000u
#define ALL_BITS (ALL_EVENTS | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK | \
		  IN_MASK_CREATE | IN_MASK_ADD | IN_ISDIR | IN_ONESHOT)

struct event_record {
	struct list list;
	s32 watch;
	u32 mask, cookie, size; /* of the name with zeros */
	char name[];
};

struct inotify {
	struct list watches, events;
	struct wait_queue queue;
	u32 count;
	s32 last_watch;
};

struct file_watch {
	struct list of_inotify, of_inode, of_super;
	struct inotify *inotify;
	struct inode *inode; /* a reference */
	s32 number;
	u32 mask;
};

static struct slab inotifies = SLAB(struct inotify);
static struct slab watches = SLAB(struct file_watch);

/* -- events -- */

static void queue_event(struct inotify *inotify, s32 watch, u32 mask, u32 cookie, const char *name)
{
	u64 length = name ? string_size(name) : 0, size = length ? (length + 1 + 15) & -16ull : 0;
	struct event_record *event, *last;

	if (inotify->count == MOST_QUEUED) {
		mask = IN_Q_OVERFLOW;
		watch = -1;
		size = length = cookie = 0;
	} else if (inotify->count > MOST_QUEUED) {
		return;
	}
	last = list_empty(&inotify->events) ? NULL : CONTAINER(inotify->events.previous, struct event_record, list);
	if (last && last->watch == watch && last->mask == mask && last->cookie == cookie && last->size == size &&
	    (!size || strings_equal(last->name, name)))
		return;
	event = kmalloc(sizeof(*event) + size);
	if (!event)
		return;
	event->watch = watch;
	event->mask = mask;
	event->cookie = cookie;
	event->size = (u32)size;
	if (length)
		bytes_copy(event->name, name, length);
	list_add(&inotify->events, &event->list);
	inotify->count++;
	wake_all(&inotify->queue);
}

static void remove_watch(struct file_watch *watch)
{
	struct inode *inode = watch->inode;

	queue_event(watch->inotify, watch->number, IN_IGNORED, 0, NULL);
	list_remove(&watch->of_inotify);
	list_remove(&watch->of_inode);
	list_remove(&watch->of_super);
	slab_free(&watches, watch);
	vfs.watches--;
	inode_put(inode);
}

/* Something happened to an inode, or to an entry of it. */
static void tell(struct inode *inode, u32 mask, u32 cookie, const char *name)
{
	inode_get(inode);
	LIST_EACH_SAFE(at, after, &inode->watches) {
		struct file_watch *watch = CONTAINER(at, struct file_watch, of_inode);

		if (!(watch->mask & mask & ALL_EVENTS))
			continue;
		queue_event(watch->inotify, watch->number, mask, cookie, name);
		if (watch->mask & IN_ONESHOT)
			remove_watch(watch);
	}
	inode_put(inode);
}

static u32 directory_bit(const struct inode *inode)
{
	return S_ISDIR(inode->mode) ? IN_ISDIR : 0;
}

/* To those that watch the file, and those that watch its directory. */
static void tell_both(struct dentry *dentry, u32 mask)
{
	mask |= directory_bit(dentry->inode);
	if (dentry->parent != dentry && dentry->parent->inode)
		tell(dentry->parent->inode, mask, 0, dentry->name);
	tell(dentry->inode, mask, 0, NULL);
}

void file_notify(struct file *file, u32 event)
{
	if (vfs.watches && !(file->flags & O_PATH))
		tell_both(file->path.dentry, event);
}

void notify_name(struct dentry *directory, struct dentry *dentry, u32 event)
{
	if (!vfs.watches)
		return;
	if (dentry->inode->links > 1 && !S_ISDIR(dentry->inode->mode))
		tell(dentry->inode, IN_ATTRIB, 0, NULL);
	tell(directory->inode, event | directory_bit(dentry->inode), 0, dentry->name);
}

/* The last name of an inode is gone, and nobody has it open. */
void notify_gone(struct inode *inode)
{
	if (list_empty(&inode->watches))
		return;
	inode_get(inode);
	tell(inode, IN_DELETE_SELF, 0, NULL);
	while (!list_empty(&inode->watches))
		remove_watch(CONTAINER(inode->watches.next, struct file_watch, of_inode));
	inode_put(inode);
}

void notify_unmounted(struct super *super)
{
	while (!list_empty(&super->watches)) {
		struct file_watch *watch = CONTAINER(super->watches.next, struct file_watch, of_super);

		queue_event(watch->inotify, watch->number, IN_UNMOUNT, 0, NULL);
		remove_watch(watch);
	}
}

void notify_removed(struct dentry *directory, struct dentry *dentry)
{
	struct inode *inode = dentry->inode;

	if (!vfs.watches)
		return;
	if (!S_ISDIR(inode->mode))
		tell(inode, IN_ATTRIB, 0, NULL);
	if ((!inode->links || S_ISDIR(inode->mode)) && dentry->references <= 1 + (u32)dentry->super->pinned)
		notify_gone(inode);
	tell(directory->inode, IN_DELETE | directory_bit(inode), 0, dentry->name);
}

void notify_renamed(struct dentry *from, struct dentry *old, struct dentry *to, struct dentry *new, u32 flags)
{
	u32 bit = directory_bit(old->inode), cookie;

	if (!vfs.watches)
		return;
	cookie = ++vfs.last_cookie;
	tell(from->inode, IN_MOVED_FROM | bit, cookie, old->name);
	tell(to->inode, IN_MOVED_TO | bit, cookie, new->name);
	if (new->inode && !(flags & RENAME_EXCHANGE)) {
		if (!S_ISDIR(new->inode->mode))
			tell(new->inode, IN_ATTRIB, 0, NULL);
		if ((!new->inode->links || S_ISDIR(new->inode->mode)) && new->references <= 1 + (u32)new->super->pinned)
			notify_gone(new->inode);
	}
	tell(old->inode, IN_MOVE_SELF, 0, NULL);
	if (!(flags & RENAME_EXCHANGE))
		return;
	bit = directory_bit(new->inode);
	cookie = ++vfs.last_cookie;
	tell(to->inode, IN_MOVED_FROM | bit, cookie, new->name);
	tell(from->inode, IN_MOVED_TO | bit, cookie, old->name);
	tell(new->inode, IN_MOVE_SELF, 0, NULL);
}

void notify_attributes(struct dentry *dentry, u32 which)
{
	u32 mask = which & (ATTR_USER | ATTR_GROUP | ATTR_MODE) || !which ? IN_ATTRIB : 0;

	if (which & ATTR_SIZE)
		mask |= IN_MODIFY;
	if ((which & (ATTR_ACCESSED | ATTR_MODIFIED)) == (ATTR_ACCESSED | ATTR_MODIFIED))
		mask |= IN_ATTRIB;
	else if (which & ATTR_ACCESSED)
		mask |= IN_ACCESS;
	else if (which & ATTR_MODIFIED)
		mask |= IN_MODIFY;
	if (vfs.watches && mask)
		tell_both(dentry, mask);
}

/* -- the file -- */

/* Take the first event off the list if there is room for it: its size, 0 or -EFAULT. */
static s64 take_event(struct inotify *inotify, struct io *to)
{
	struct event_record *event = CONTAINER(inotify->events.next, struct event_record, list);
	u32 head[4] = { (u32)event->watch, event->mask, event->cookie, event->size };
	s64 result = EVENT_HEAD + (s64)event->size;

	if (to->left < (u64)result)
		return 0;
	list_remove(&event->list); /* first: the copy can sleep, and others read, too */
	inotify->count--;
	if (io_put(to, head, sizeof(head)) < sizeof(head) || io_put(to, event->name, event->size) < event->size)
		result = -EFAULT;
	kfree(event);
	return result;
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct inotify *inotify = file->data;
	s64 done = 0, result = 0;

	(void)position;
	while (list_empty(&inotify->events)) {
		s64 error = io_wait(to, file, &inotify->queue);

		if (error)
			return error;
	}
	while (!list_empty(&inotify->events)) {
		result = take_event(inotify, to);
		if (result <= 0)
			break;
		done += result;
	}
	return done ? done : result ? result : -EINVAL;
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct inotify *inotify = file->data;

	poll_wait(poll, &inotify->queue);
	return list_empty(&inotify->events) ? 0 : POLLIN | POLLRDNORM;
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	enum { FIONREAD = 0x541b };
	struct inotify *inotify = file->data;
	s32 size = 0;

	if (command != FIONREAD)
		return -ENOTTY;
	LIST_EACH(at, &inotify->events)
		size += EVENT_HEAD + (s32)CONTAINER(at, struct event_record, list)->size;
	return user_write(core.current->mm, argument, &size, sizeof(size));
}

static void release(struct file *file)
{
	struct inotify *inotify = file->data;

	while (!list_empty(&inotify->watches))
		remove_watch(CONTAINER(inotify->watches.next, struct file_watch, of_inotify));
	while (!list_empty(&inotify->events)) {
		struct event_record *event = CONTAINER(inotify->events.next, struct event_record, list);

		list_remove(&event->list);
		kfree(event);
	}
	slab_free(&inotifies, inotify);
}

static const struct file_operations operations = {
	.read = read, .seek = file_stay, .poll = poll, .ioctl = ioctl, .release = release, .async = true, .no_read_flags = true,
};

/* -- calls -- */

static s64 make(struct task *t, u32 flags)
{
	struct inotify *inotify;
	struct file *file;
	int error;

	if (flags & ~(u32)(O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	inotify = slab_alloc(&inotifies);
	if (!inotify)
		return -ENOMEM;
	list_init(&inotify->watches);
	list_init(&inotify->events);
	error = anonymous_file(0600, "anon_inode:inotify", &operations, O_RDONLY | (flags & O_NONBLOCK), &file);
	if (error) {
		slab_free(&inotifies, inotify);
		return error;
	}
	file->data = inotify;
	return fd_install(t, file, 0, flags & O_CLOEXEC);
}

s64 sys_inotify_init(struct task *t, const u64 *args)
{
	(void)args;
	return make(t, 0);
}

s64 sys_inotify_init1(struct task *t, const u64 *args)
{
	return make(t, (u32)args[0]);
}

static struct inotify *get(struct task *t, u64 number, s64 *error)
{
	struct file *file = fd_real(t, number);

	*error = file ? -EINVAL : -EBADF;
	return file && file->operations == &operations ? file->data : NULL;
}

static s64 watch_inode(struct inotify *inotify, struct inode *inode, u32 mask)
{
	struct file_watch *watch;

	LIST_EACH(at, &inotify->watches) {
		watch = CONTAINER(at, struct file_watch, of_inotify);
		if (watch->inode != inode)
			continue;
		if (mask & IN_MASK_CREATE)
			return -EEXIST;
		watch->mask = mask & IN_MASK_ADD ? watch->mask | mask : mask;
		return watch->number;
	}
	watch = slab_alloc(&watches);
	if (!watch)
		return -ENOMEM;
	inode_get(inode);
	watch->inode = inode;
	watch->inotify = inotify;
	watch->mask = mask;
	watch->number = ++inotify->last_watch;
	list_add(&inotify->watches, &watch->of_inotify);
	list_add(&inode->watches, &watch->of_inode);
	list_add(&inode->super->watches, &watch->of_super);
	vfs.watches++;
	return watch->number;
}

s64 sys_inotify_add_watch(struct task *t, const u64 *args)
{
	u32 mask = (u32)args[2];
	struct inotify *inotify;
	struct path path;
	s64 result;

	if (!(mask & ALL_BITS) || mask & ~ALL_BITS)
		return -EINVAL;
	inotify = get(t, args[0], &result);
	if (!inotify && result == -EBADF)
		return result;
	if ((mask & (IN_MASK_ADD | IN_MASK_CREATE)) == (IN_MASK_ADD | IN_MASK_CREATE) || !inotify)
		return -EINVAL;
	result = path_user(t, (u64)AT_FDCWD, args[1], (mask & IN_DONT_FOLLOW ? 0 : WALK_FOLLOW) |
			   (mask & IN_ONLYDIR ? WALK_DIRECTORY : 0), &path);
	if (result)
		return result;
	result = inode_permission(path.dentry->inode, MAY_READ);
	if (!result)
		result = watch_inode(inotify, path.dentry->inode, mask);
	path_put(&path);
	return result;
}

s64 sys_inotify_rm_watch(struct task *t, const u64 *args)
{
	s64 error;
	struct inotify *inotify = get(t, args[0], &error);

	if (!inotify)
		return error;
	LIST_EACH(at, &inotify->watches) {
		struct file_watch *watch = CONTAINER(at, struct file_watch, of_inotify);

		if (watch->number != (s32)args[1])
			continue;
		remove_watch(watch);
		return 0;
	}
	return -EINVAL;
}
