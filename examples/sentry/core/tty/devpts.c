// SPDX-License-Identifier: Apache-2.0
/* The file system in /dev/pts: a name for each pseudo terminal, as long as its master is open. */
#include "../vfs/calls.h"
#include "../vfs/process_file.h"
#include "../vfs/text.h"
#include "tty.h"

enum { DEVPTS_MAGIC = 0x1cd1, TTY_GROUP = 5, PTMX_INODE = 2, FIRST_INODE = 3, NAME_SIZE = 12 };
static const struct inode_operations directory_operations, terminal_operations, ptmx_operations;
static const struct file_operations directory_file_operations;

static struct {
	struct super *super;
	struct inode *ptmx;
	struct mount nowhere; /* for terminals where it is not mounted */
} devpts;

static void evict(struct inode *inode)
{
	inode->data = NULL;
}

/* A name is valid as long as its terminal exists: the inode has data. */
static int revalidate(struct dentry *dentry)
{
	return dentry->inode && dentry->inode->data;
}

static const struct super_operations super_operations = { .evict = evict, .revalidate = revalidate };

static struct inode *make_inode(u32 mode, const struct inode_operations *operations)
{
	struct inode *inode = inode_new(devpts.super, mode);

	if (!inode)
		return NULL;
	inode->operations = operations;
	inode->data = &devpts;
	return inode;
}

void devpts_init(void)
{
	bytes_zero(&devpts, sizeof(devpts));
}

static struct super *make(void)
{
	struct inode *root;

	devpts.super = super_new(&super_operations, "devpts", DEVPTS_MAGIC);
	root = devpts.super ? make_inode(S_IFDIR | 0755, &directory_operations) : NULL;
	devpts.ptmx = root ? make_inode(S_IFCHR | 0666, &ptmx_operations) : NULL;
	if (!devpts.ptmx)
		return devpts.super = NULL;
	root->links = 2;
	root->user = root->group = devpts.ptmx->user = devpts.ptmx->group = 0;
	root->file_operations = &directory_file_operations;
	devpts.ptmx->device = MAKE_DEVICE(5, 2);
	if (super_set_root(devpts.super, root))
		return devpts.super = NULL;
	devpts.nowhere = (struct mount){ .references = REFERENCES_SATURATED, .super = devpts.super };
	return devpts.super;
}

/* There is one, mounted or not. */
struct super *devpts_super(void)
{
	if (!devpts.super && !make())
		return NULL;
	reference_get(&devpts.super->references);
	return devpts.super;
}

/* -- names -- */

static u32 number_text(u32 number, char *text)
{
	char digits[NAME_SIZE];
	u32 count = 0, size = 0;

	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	while (count)
		text[size++] = digits[--count];
	return size;
}

struct inode *devpts_add(u32 index)
{
	struct inode *inode = devpts.super || make() ? make_inode(S_IFCHR | 0620, &terminal_operations) : NULL;

	if (!inode)
		return NULL;
	inode->number = FIRST_INODE + index;
	inode->group = TTY_GROUP;
	inode->device = pts_device(index);
	return inode;
}

void devpts_remove(struct inode *inode)
{
	inode->data = NULL;
	inode->links = 0;
	inode_put(inode);
}

static struct inode *find(s32 number)
{
	if (number == CONSOLE_INDEX && console_inode())
		return console_inode();
	return number < 0 ? NULL : pty_inode((u32)number);
}

static int lookup(struct inode *directory, struct dentry *dentry)
{
	struct inode *inode = strings_equal(dentry->name, "ptmx") ? devpts.ptmx : find(number_of(dentry->name));

	(void)directory;
	if (!inode)
		return 0;
	inode_get(inode);
	dentry_attach(dentry, inode);
	return 0;
}

/* Positions: 2 is that of ptmx, 3 that of the first terminal. */
static int readdir(struct file *file, struct entries *entries)
{
	char name[NAME_SIZE];

	if (!entries_put_dots(file, entries))
		return 0;
	if (file->position == 2) {
		if (!entries_put(entries, "ptmx", 4, PTMX_INODE, DT_CHR, 3))
			return 0;
		file->position = 3;
	}
	for (u64 index = file->position - 3; index < PTYS_MOST; index++) {
		if (!find((s32)index) || (pty_inode((u32)index) && !pty_is_own((u32)index)))
			continue;
		if (!entries_put(entries, name, number_text((u32)index, name), FIRST_INODE + index, DT_CHR, index + 4))
			return 0;
		file->position = index + 4;
	}
	return 0;
}

static int open_terminal(struct inode *inode, struct file *file)
{
	u32 index = (u32)inode->number - FIRST_INODE;
	struct tty *tty = inode == console_inode() ? console_tty() : inode == pty_inode(index) ? pty_find(index) : NULL;

	if (!tty || (inode != console_inode() && !pty_is_own(index)))
		return -EIO; /* that of another container is not in the caller's instance, as Linux has it */
	return tty_open(file, tty, false);
}

static int open_ptmx(struct inode *inode, struct file *file)
{
	(void)inode;
	return ptmx_open(file);
}

static const struct inode_operations directory_operations = { .lookup = lookup };
static const struct inode_operations terminal_operations = { .open = open_terminal };
static const struct inode_operations ptmx_operations = { .open = open_ptmx };
static const struct file_operations directory_file_operations = { .readdir = readdir, .seek = directory_seek };

/* Its first mount, or a hidden one. */
static struct mount *mounted(void)
{
	LIST_EACH(at, mount_list()) {
		struct mount *mount = CONTAINER(at, struct mount, all);

		if (mount->super == devpts.super)
			return mount;
	}
	return &devpts.nowhere;
}

int devpts_path(u32 index, struct path *path)
{
	char name[NAME_SIZE];
	u32 size = number_text(index, name);
	int error;

	if (!devpts.super)
		return -ENXIO;
	path->mount = mounted();
	mount_get(path->mount);
	inode_lock(devpts.super->root->inode);
	error = dentry_lookup(devpts.super->root, name, size, &path->dentry);
	inode_unlock(devpts.super->root->inode);
	if (!error && !path->dentry->inode) {
		dentry_put(path->dentry);
		error = -ENOENT;
	}
	if (error)
		mount_put(path->mount);
	return error;
}
