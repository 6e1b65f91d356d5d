// SPDX-License-Identifier: Apache-2.0
/* What happens to files, for those who watch them. */
#include "calls.h"

void file_notify(struct file *file, u32 event)
{
	(void)file, (void)event;
}

void notify_name(struct dentry *directory, struct dentry *dentry, u32 event)
{
	(void)directory, (void)dentry, (void)event;
}

void notify_removed(struct dentry *directory, struct dentry *dentry)
{
	(void)directory, (void)dentry;
}

void notify_renamed(struct dentry *from, struct dentry *old, struct dentry *to, struct dentry *new, u32 flags)
{
	(void)from, (void)old, (void)to, (void)new, (void)flags;
}

void notify_attributes(struct dentry *dentry)
{
	(void)dentry;
}
