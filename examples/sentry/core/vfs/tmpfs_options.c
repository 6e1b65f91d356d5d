// SPDX-License-Identifier: Apache-2.0
/* Options of a tmpfs: how large it may become, and who owns its root. */
#include "caller.h"
#include "mount.h"
#include "text.h"
#include "tmpfs.h"

/* A number with a unit, of bytes or a percentage of RAM; false: it is none. */
static bool number_with_unit(const char *text, u32 base, bool unit, u64 *value)
{
	u64 number = 0;

	if (!*text)
		return false;
	for (; *text >= '0' && *text < (char)('0' + base); text++)
		number = number * base + (u64)(*text - '0');
	if (unit && *text == '%') {
		number = number * core.ram.count / 100 * PAGE;
		text++;
	} else if (unit && *text) {
		u32 shift = (*text | 0x20) == 'k' ? 10 : (*text | 0x20) == 'm' ? 20 : (*text | 0x20) == 'g' ? 30 : 0;

		number <<= shift;
		text += shift != 0;
	}
	*value = number;
	return !*text;
}

static int set_option(struct super *super, char *option)
{
	struct tmpfs_limits *limits = super->data;
	struct inode *root = super->root->inode;
	char *text;
	u64 value = 0;

	if ((text = option_value(option, "size="))) {
		if (!number_with_unit(text, 10, true, &value))
			return -EINVAL;
		value = (value + PAGE - 1) / PAGE;
		if (value && value < limits->used)
			return -EINVAL;
		limits->pages = value ? value : core.ram.count;
		limits->given = true;
		return 0;
	}
	if ((text = option_value(option, "nr_inodes="))) {
		if (!number_with_unit(text, 10, true, &value))
			return -EINVAL;
		value = value < ~0ull / INODE_SPACE ? value : 0;
		if (value && value * INODE_SPACE < limits->space)
			return -EINVAL;
		limits->inodes = value;
		return 0;
	}
	if ((text = option_value(option, "mode=")) && number_with_unit(text, 8, false, &value))
		root->mode = S_IFDIR | (u32)(value & 07777);
	else if ((text = option_value(option, "uid=")) && number_with_unit(text, 10, false, &value))
		root->user = (u32)value;
	else if ((text = option_value(option, "gid=")) && number_with_unit(text, 10, false, &value))
		root->group = (u32)value;
	else
		return strings_equal(option, "inode64") ? 0 : -EINVAL;
	return 0;
}

/* Options between commas, which are overwritten. */
int tmpfs_options(struct super *super, char *options)
{
	int error = 0;

	while (!error && *options) {
		char *option = option_next(&options, ',');

		error = *option ? set_option(super, option) : 0;
	}
	return error;
}

int tmpfs_remount(struct super *super, u32 flags, char *options)
{
	(void)flags;
	return tmpfs_options(super, options);
}

void tmpfs_show(struct super *super, struct text *text)
{
	struct tmpfs_limits *limits = super->data;
	struct inode *root = super->root->inode;

	if (limits->given) {
		text_put(text, ",size=");
		text_number(text, limits->pages * (PAGE / 1024));
		text_put(text, "k");
	}
	if (limits->inodes) {
		text_put(text, ",nr_inodes=");
		text_number(text, limits->inodes);
	}
	if ((root->mode & 07777) != 01777) {
		text_put(text, ",mode=");
		text_octal(text, root->mode & 07777, 3);
	}
	text_put(text, ",inode64");
}
