// SPDX-License-Identifier: Apache-2.0
/* System calls for the process itself and for the machine. */
#include "core.h"
#include "id_map.h"
#include "space.h"
#include "vfs/fds.h"
#include "vfs/process_file.h"

s64 sys_arch_prctl(struct task *t, const u64 *args)
{
	enum { SET_GS = 0x1001, SET_FS = 0x1002, GET_FS = 0x1003, GET_GS = 0x1004 };
	u32 code = (u32)args[0];

	task_flush(t);
	switch (code) {
	case SET_GS:
	case SET_FS:
		if (args[1] >= TASK_SIZE)
			return -EPERM;
		*(code == SET_FS ? &t->regs.fs_base : &t->regs.gs_base) = args[1];
		return 0;
	case GET_FS:
		return user_write(t->mm, args[1], &t->regs.fs_base, sizeof(u64));
	case GET_GS:
		return user_write(t->mm, args[1], &t->regs.gs_base, sizeof(u64));
	}
	return -EINVAL;
}

s64 sys_prlimit64(struct task *t, const u64 *args)
{
	u32 resource = (u32)args[1];
	struct rlimit new, old, *place;
	struct task *of;

	if (args[2] && user_read(t->mm, &new, args[2], sizeof(new)))
		return -EFAULT;
	of = task_named(t, (s32)args[0]); /* after the read, which can sleep */
	if (!of)
		return -ESRCH;
	if (!may_limit(t, of->process))
		return -EPERM;
	if (resource >= RLIMITS)
		return -EINVAL;
	place = &of->process->limits[resource];
	old = *place;
	if (args[2]) {
		if (new.current > new.maximum)
			return -EINVAL;
		if (resource == RLIMIT_NOFILE && new.maximum > FDS_MOST)
			return -EPERM;
		if (new.maximum > old.maximum && !capable_outside(CAP_SYS_RESOURCE))
			return -EPERM;
		*place = new;
	}
	return args[3] ? user_write(t->mm, args[3], &old, sizeof(old)) : 0;
}

s64 sys_setrlimit(struct task *t, const u64 *args)
{
	const u64 more[4] = { 0, (u32)args[0], args[1], 0 };

	return args[1] ? sys_prlimit64(t, more) : -EFAULT;
}

s64 sys_getrlimit(struct task *t, const u64 *args)
{
	if ((u32)args[0] >= RLIMITS)
		return -EINVAL;
	return user_write(t->mm, args[1], &t->process->limits[(u32)args[0]], sizeof(struct rlimit));
}

static struct utsname *names_of(const struct task *t)
{
	return &space_of(t->process, SPACE_UTS)->names;
}

const struct utsname *system_name(void)
{
	return names_of(core.current);
}

/* The first line of a text, without what does not fit. */
static void set_line(char name[65], const char *text)
{
	u32 used = 0;

	while (used < 64 && text[used] && text[used] != '\n')
		used++;
	bytes_zero(name, 65);
	bytes_copy(name, text, used);
}

void system_set_hostname(struct space *space, const char *name)
{
	set_line(space->names.node, name);
}

void system_set_domainname(struct space *space, const char *name)
{
	set_line(space->names.domain, name);
}

static s64 set_name(struct task *t, char *name, u64 from, s32 size)
{
	char new[65] = "";

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size < 0 || size >= (s32)sizeof(new))
		return -EINVAL;
	if (user_read(t->mm, new, from, (u64)size))
		return -EFAULT;
	bytes_copy(name, new, sizeof(new));
	return 0;
}

s64 sys_sethostname(struct task *t, const u64 *args)
{
	return set_name(t, names_of(t)->node, args[0], (s32)args[1]);
}

s64 sys_setdomainname(struct task *t, const u64 *args)
{
	return set_name(t, names_of(t)->domain, args[0], (s32)args[1]);
}

s64 sys_uname(struct task *t, const u64 *args)
{
	return user_write(t->mm, args[0], names_of(t), sizeof(struct utsname));
}

s64 sys_getrandom(struct task *t, const u64 *args)
{
	enum { NONBLOCK = 1, RANDOM = 2, INSECURE = 4 };
	u64 size = args[1] < 0x7fffffff ? args[1] : 0x7fffffff, done = 0;
	u32 flags = (u32)args[2];

	if (flags & ~(u32)(NONBLOCK | RANDOM | INSECURE) || (flags & (RANDOM | INSECURE)) == (RANDOM | INSECURE))
		return -EINVAL;
	if (!user_range(args[0], size))
		return -EFAULT;
	while (done < size) {
		u64 at = args[0] + done, rest = PAGE - at % PAGE, part = rest < size - done ? rest : size - done;
		void *page = mm_page(t->mm, at, true);

		if (!page)
			break;
		core.ops->random(page, part);
		done += part;
	}
	return done || !size ? (s64)done : -EFAULT;
}
