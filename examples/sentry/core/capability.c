// SPDX-License-Identifier: Apache-2.0
/* System calls for capabilities, and the options of prctl for them. */
#include "prctl.h"

enum { VERSION_1 = 0x19980330, VERSION_2 = 0x20071026, VERSION_3 = 0x20080522, DATA_1 = 12, DATA = 24 };

/* The size of the data for a header's version. -EINVAL: it is unknown, and the header gets the newest version. */
static s64 data_size(struct task *t, u64 header)
{
	const u32 wanted = VERSION_3;
	u32 version;

	if (user_read(t->mm, &version, header, sizeof(version)))
		return -EFAULT;
	if (version == VERSION_1)
		return DATA_1;
	if (version == VERSION_2 || version == VERSION_3)
		return DATA;
	return user_write(t->mm, header, &wanted, sizeof(wanted)) ? -EFAULT : -EINVAL;
}

s64 sys_capget(struct task *t, const u64 *args)
{
	s64 size = data_size(t, args[0]);
	const struct task *of;
	u32 data[6];
	s32 pid;

	if (!args[1])
		return size == -EFAULT ? size : 0;
	if (size < 0)
		return size;
	if (user_read(t->mm, &pid, args[0] + sizeof(u32), sizeof(pid)))
		return -EFAULT;
	if (pid < 0)
		return -EINVAL;
	of = task_named(t, pid);
	if (!of)
		return -ESRCH;
	for (u32 i = 0; i < 2; i++) {
		data[3 * i] = (u32)(of->cred.effective >> 32 * i);
		data[3 * i + 1] = (u32)(of->cred.permitted >> 32 * i);
		data[3 * i + 2] = (u32)(of->cred.inheritable >> 32 * i);
	}
	return user_write(t->mm, args[1], data, (u64)size);
}

s64 sys_capset(struct task *t, const u64 *args)
{
	s64 size = data_size(t, args[0]);
	struct cred new = t->cred;
	u32 data[6] = { 0 };
	s32 pid;

	if (size < 0)
		return size;
	if (user_read(t->mm, &pid, args[0] + sizeof(u32), sizeof(pid)))
		return -EFAULT;
	if (pid && pid != t->tid)
		return -EPERM;
	if (user_read(t->mm, data, args[1], (u64)size))
		return -EFAULT;
	new.effective = (data[0] | (u64)data[3] << 32) & ALL_CAPABILITIES;
	new.permitted = (data[1] | (u64)data[4] << 32) & ALL_CAPABILITIES;
	new.inheritable = (data[2] | (u64)data[5] << 32) & ALL_CAPABILITIES;
	if (!capable(CAP_SETPCAP) && new.inheritable & ~(t->cred.inheritable | t->cred.permitted))
		return -EPERM;
	if (new.inheritable & ~(t->cred.inheritable | t->cred.bounding))
		return -EPERM;
	if (new.permitted & ~t->cred.permitted || new.effective & ~new.permitted)
		return -EPERM;
	new.ambient &= new.permitted & new.inheritable;
	cred_change(t, &new);
	return 0;
}

/* -- prctl -- */

static bool exists(u64 capability)
{
	return capability <= CAP_LAST;
}

s64 prctl_bounding_read(struct task *t, const u64 *args)
{
	if (!exists(args[0]))
		return -EINVAL;
	return t->cred.bounding >> args[0] & 1;
}

s64 prctl_bounding_drop(struct task *t, const u64 *args)
{
	if (!capable(CAP_SETPCAP))
		return -EPERM;
	if (!exists(args[0]))
		return -EINVAL;
	t->cred.bounding &= ~CAPABILITY(args[0]);
	return 0;
}

s64 prctl_securebits_set(struct task *t, const u64 *args)
{
	const u64 bits = 0x55, locks = bits << 1;
	u32 old = t->cred.securebits;

	if ((old & locks) >> 1 & (old ^ args[0]) || old & locks & ~args[0] || args[0] & ~(bits | locks))
		return -EPERM;
	if (!capable(CAP_SETPCAP))
		return -EPERM;
	t->cred.securebits = (u32)args[0];
	return 0;
}

s64 prctl_securebits_get(struct task *t, const u64 *args)
{
	(void)args;
	return t->cred.securebits;
}

s64 prctl_keep_get(struct task *t, const u64 *args)
{
	(void)args;
	return !!(t->cred.securebits & SECURE_KEEP_CAPS);
}

s64 prctl_keep_set(struct task *t, const u64 *args)
{
	if (args[0] > 1)
		return -EINVAL;
	if (t->cred.securebits & SECURE_KEEP_CAPS << 1)
		return -EPERM;
	t->cred.securebits &= ~(u32)SECURE_KEEP_CAPS;
	t->cred.securebits |= args[0] ? SECURE_KEEP_CAPS : 0;
	return 0;
}

s64 prctl_ambient(struct task *t, const u64 *args)
{
	enum { IS_SET = 1, RAISE, LOWER, CLEAR_ALL };
	struct cred *cred = &t->cred;
	u64 bit;

	if (args[0] == CLEAR_ALL) {
		if (args[1] | args[2] | args[3])
			return -EINVAL;
		cred->ambient = 0;
		return 0;
	}
	if (!exists(args[1]) || args[2] | args[3])
		return -EINVAL;
	bit = CAPABILITY(args[1]);
	if (args[0] == IS_SET)
		return !!(cred->ambient & bit);
	if (args[0] == LOWER) {
		cred->ambient &= ~bit;
		return 0;
	}
	if (args[0] != RAISE)
		return -EINVAL;
	if (!(cred->permitted & cred->inheritable & bit) || cred->securebits & SECURE_NO_AMBIENT_RAISE)
		return -EPERM;
	cred->ambient |= bit;
	return 0;
}
