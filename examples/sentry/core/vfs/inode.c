// SPDX-License-Identifier: Apache-2.0
/* Inodes: references, rights, attributes. */
#include "../clock.h"
#include "../id_map.h"
#include "calls.h"

static struct slab inodes = SLAB(struct inode);
static struct slab supers = SLAB(struct super);

struct timespec time_real(void)
{
	return timespec_from(core.ops->nanoseconds(CLOCK_IS_REALTIME));
}

struct super *super_new(const struct super_operations *operations, const char *type, u64 magic)
{
	struct super *super = slab_alloc(&supers);

	if (!super)
		return NULL;
	super->references = 1;
	list_init(&super->watches);
	super->operations = operations;
	super->type = type;
	super->magic = magic;
	super->device = MAKE_DEVICE(0, ++vfs.devices);
	super->next_inode = 1;
	super->next_cookie = 3; /* behind . and .. */
	return super;
}

int super_set_root(struct super *super, struct inode *inode)
{
	super->root = inode ? dentry_new_root(super, inode) : NULL;
	if (super->root)
		return 0;
	inode_put(inode);
	return -ENOMEM;
}

void super_put(struct super *super)
{
	if (!super || !reference_put(&super->references))
		return;
	notify_unmounted(super);
	if (super->root && super->pinned)
		dentry_drop_all(super);
	dentry_forget(super);
	dentry_put(super->root);
	if (super->operations->release)
		super->operations->release(super);
	slab_free(&supers, super);
}

struct inode *inode_new(struct super *super, u32 mode)
{
	struct inode *inode = slab_alloc(&inodes);

	if (!inode)
		return NULL;
	inode->references = 1;
	inode->super = super;
	inode->number = super->next_inode++;
	inode->mode = mode;
	inode->links = 1;
	inode->user = caller_user();
	inode->group = caller_group();
	inode->block_size = PAGE;
	inode->accessed = inode->modified = inode->changed = inode->born = time_real();
	list_init(&inode->watches);
	list_init(&inode->mappings);
	return inode;
}

void inode_init_owner(struct inode *inode, const struct inode *directory, u32 mode)
{
	if (directory->mode & S_ISGID) {
		inode->group = directory->group;
		if (S_ISDIR(mode))
			mode |= S_ISGID;
		else if ((mode & (S_ISGID | 010)) == (S_ISGID | 010) && !caller_in_group(inode->group) &&
			 !capable_over(inode, CAP_FSETID))
			mode &= ~(u32)S_ISGID;
	}
	inode->mode = mode;
}

void inode_get(struct inode *inode)
{
	reference_get(&inode->references);
}

void inode_put(struct inode *inode)
{
	if (!inode || !reference_put(&inode->references))
		return;
	if (inode->super->operations->evict)
		inode->super->operations->evict(inode);
	locks_free(inode);
	slab_free(&inodes, inode);
}

void mutex_lock(struct mutex *mutex)
{
	while (mutex->held)
		sleep_on_always(&mutex->queue); /* even a killed task needs the lock to finish its call */
	mutex->held = true;
}

void mutex_unlock(struct mutex *mutex)
{
	mutex->held = false;
	wake_one(&mutex->queue);
}

void mutex_lock_two(struct mutex *a, struct mutex *b)
{
	mutex_lock(a < b ? a : b);
	if (a != b)
		mutex_lock(a < b ? b : a);
}

void mutex_unlock_two(struct mutex *a, struct mutex *b)
{
	mutex_unlock(a);
	if (a != b)
		mutex_unlock(b);
}

void inode_lock(struct inode *inode)
{
	mutex_lock(&inode->mutex);
}

void inode_unlock(struct inode *inode)
{
	mutex_unlock(&inode->mutex);
}

/* -- rights -- */

bool inode_owned(const struct inode *inode)
{
	return inode->user == caller_user() || capable_over(inode, CAP_FOWNER);
}

static bool mode_allows(const struct inode *inode, u32 wanted)
{
	u32 mode = inode->mode;

	if (inode->user == caller_user())
		mode >>= 6;
	else if (caller_in_group(inode->group))
		mode >>= 3;
	return !(wanted & ~mode & 7);
}

int inode_permission(struct inode *inode, u32 wanted)
{
	int error;

	if (wanted & MAY_WRITE && inode->super->flags & MS_RDONLY && /* devices and the like have no content there */
	    (S_ISREG(inode->mode) || S_ISDIR(inode->mode) || S_ISLNK(inode->mode)))
		return -EROFS;
	error = inode_refresh(inode);
	if (error)
		return error;
	if (mode_allows(inode, wanted))
		return 0;
	if (S_ISDIR(inode->mode) || !(wanted & MAY_EXEC) || inode->mode & 0111)
		if (capable_over(inode, CAP_DAC_OVERRIDE))
			return 0;
	if (!(wanted & MAY_WRITE) && (S_ISDIR(inode->mode) || !(wanted & MAY_EXEC)) &&
	    capable_over(inode, CAP_DAC_READ_SEARCH))
		return 0;
	return -EACCES;
}

/* -- attributes -- */

int inode_refresh(struct inode *inode)
{
	return inode->operations->getattr ? inode->operations->getattr(inode) : 0;
}

void inode_apply(struct inode *inode, const struct attributes *new)
{
	if (new->which & ATTR_MODE)
		inode->mode = (inode->mode & S_IFMT) | (new->mode & 07777);
	if (new->which & ATTR_USER)
		inode->user = new->user;
	if (new->which & ATTR_GROUP)
		inode->group = new->group;
	if (new->which & ATTR_ACCESSED)
		inode->accessed = new->accessed;
	if (new->which & ATTR_MODIFIED)
		inode->modified = new->modified;
	if (new->which & ATTR_CHANGED)
		inode->changed = new->changed;
}

/* A change of the owner or of the content takes rights of the owner away from a program. */
void inode_strip(struct inode *inode, struct attributes *new)
{
	u32 mode = new->which & ATTR_MODE ? new->mode : inode->mode & 07777, kept = mode;

	if (!S_ISREG(inode->mode))
		return;
	kept &= ~(u32)S_ISUID;
	if (mode & 010)
		kept &= ~(u32)S_ISGID;
	if (kept == mode)
		return;
	new->mode = kept;
	new->which |= ATTR_MODE;
}

int inode_setattr(struct inode *inode, const struct attributes *new)
{
	int error = 0;

	inode_lock(inode);
	if (inode->operations->setattr)
		error = inode->operations->setattr(inode, new);
	else
		inode_apply(inode, new);
	inode_unlock(inode);
	return error;
}

int inode_change(struct inode *inode, struct attributes *new)
{
	int error;

	new->which |= ATTR_CHANGED;
	new->changed = time_real();
	error = inode_setattr(inode, new);
	if (!error && new->which & ATTR_SIZE)
		mm_truncate(inode, new->size);
	return error;
}
