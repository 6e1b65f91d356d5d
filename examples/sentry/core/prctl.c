// SPDX-License-Identifier: Apache-2.0
/* prctl: a function for each option. */
#include "prctl.h"
#include "filters.h"

static s64 put_number(struct task *t, u64 to, u32 number)
{
	return user_write(t->mm, to, &number, sizeof(number));
}

static s64 death_signal_set(struct task *t, const u64 *args)
{
	if (args[0] > SIGNALS)
		return -EINVAL;
	t->death_signal = (s32)args[0];
	return 0;
}

static s64 death_signal_get(struct task *t, const u64 *args)
{
	return put_number(t, args[0], (u32)t->death_signal);
}

static s64 dumpable_get(struct task *t, const u64 *args)
{
	(void)args;
	return !t->mm->secret;
}

static s64 dumpable_set(struct task *t, const u64 *args)
{
	if (args[0] > 1)
		return -EINVAL;
	t->mm->secret = !args[0];
	return 0;
}

static s64 zero(struct task *t, const u64 *args)
{
	(void)t, (void)args;
	return 0;
}

static s64 seccomp_mode(struct task *t, const u64 *args)
{
	(void)args;
	return filters_mode(t); /* in strict mode, it does not come here */
}

static s64 seccomp_set(struct task *t, const u64 *args)
{
	if (args[0] == MODE_STRICT)
		return filters_set_strict(t);
	return args[0] == MODE_FILTER ? filters_set(t, 0, args[1]) : -EINVAL;
}

static s64 timing_set(struct task *t, const u64 *args)
{
	(void)t;
	return args[0] ? -EINVAL : 0;
}

static s64 name_set(struct task *t, const u64 *args)
{
	char name[16] = "";

	if (user_string(t->mm, name, args[0], sizeof(name) - 1) == -EFAULT)
		return -EFAULT;
	name[15] = 0;
	bytes_copy(t->name, name, sizeof(name));
	return 0;
}

static s64 name_get(struct task *t, const u64 *args)
{
	return user_write(t->mm, args[0], t->name, sizeof(t->name));
}

static s64 tsc_get(struct task *t, const u64 *args)
{
	enum { TSC_ENABLE = 1 };

	return put_number(t, args[0], TSC_ENABLE);
}

static s64 tsc_set(struct task *t, const u64 *args)
{
	(void)t;
	return (u32)args[0] == 1 ? 0 : -EINVAL;
}

static s64 slack_set(struct task *t, const u64 *args)
{
	t->timer_slack = (s64)args[0] > 0 ? args[0] : t->default_slack;
	return 0;
}

static s64 slack_get(struct task *t, const u64 *args)
{
	(void)args;
	return (s64)t->timer_slack;
}

static s64 machine_check_set(struct task *t, const u64 *args)
{
	enum { CLEAR, SET, DEFAULT = 2 };

	(void)t;
	if (args[2] | args[3])
		return -EINVAL;
	if (args[0] == CLEAR)
		return args[1] ? -EINVAL : 0;
	return args[0] != SET || args[1] > DEFAULT ? -EINVAL : 0;
}

static s64 machine_check_get(struct task *t, const u64 *args)
{
	enum { DEFAULT = 2 };

	(void)t;
	return args[0] | args[1] | args[2] | args[3] ? -EINVAL : DEFAULT;
}

static s64 subreaper_set(struct task *t, const u64 *args)
{
	t->process->subreaper = args[0];
	return 0;
}

static s64 subreaper_get(struct task *t, const u64 *args)
{
	return put_number(t, args[0], t->process->subreaper);
}

static s64 no_new_privs_set(struct task *t, const u64 *args)
{
	if (args[0] != 1 || args[1] | args[2] | args[3])
		return -EINVAL;
	t->no_new_privs = true;
	return 0;
}

static s64 no_new_privs_get(struct task *t, const u64 *args)
{
	return args[0] | args[1] | args[2] | args[3] ? -EINVAL : t->no_new_privs;
}

static s64 tid_address_get(struct task *t, const u64 *args)
{
	return user_write(t->mm, args[0], &t->clear_tid, sizeof(t->clear_tid));
}

static s64 huge_pages_set(struct task *t, const u64 *args)
{
	if (args[1] | args[2] | args[3])
		return -EINVAL;
	t->mm->no_huge_pages = args[0];
	return 0;
}

static s64 huge_pages_get(struct task *t, const u64 *args)
{
	return args[0] | args[1] | args[2] | args[3] ? -EINVAL : t->mm->no_huge_pages;
}

static s64 (*const options[])(struct task *t, const u64 *args) = {
	[1] = death_signal_set,
	[2] = death_signal_get,
	[3] = dumpable_get,
	[4] = dumpable_set,
	[7] = prctl_keep_get,
	[8] = prctl_keep_set,
	[13] = zero, /* PR_GET_TIMING: PR_TIMING_STATISTICAL */
	[14] = timing_set,
	[15] = name_set,
	[16] = name_get,
	[21] = seccomp_mode,
	[22] = seccomp_set,
	[23] = prctl_bounding_read,
	[24] = prctl_bounding_drop,
	[25] = tsc_get,
	[26] = tsc_set,
	[27] = prctl_securebits_get,
	[28] = prctl_securebits_set,
	[29] = slack_set,
	[30] = slack_get,
	[31] = zero, /* PR_TASK_PERF_EVENTS_DISABLE: there are none */
	[32] = zero,
	[33] = machine_check_set,
	[34] = machine_check_get,
	[36] = subreaper_set,
	[37] = subreaper_get,
	[38] = no_new_privs_set,
	[39] = no_new_privs_get,
	[40] = tid_address_get,
	[41] = huge_pages_set,
	[42] = huge_pages_get,
	[47] = prctl_ambient,
};

s64 sys_prctl(struct task *t, const u64 *args)
{
	u32 option = (u32)args[0];

	if (option >= ARRAY_SIZE(options) || !options[option])
		return -EINVAL;
	return options[option](t, args + 1);
}
