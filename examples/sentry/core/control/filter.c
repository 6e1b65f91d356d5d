// SPDX-License-Identifier: Apache-2.0
/*
 * linux.seccomp of a specification, as libseccomp reads it: a rule without conditions decides about its calls; names that
 * no system call has here are those of another kernel's, and are left out.
 */
#include "container.h"

#include "../seccomp.h"

enum { RULES_MOST = 4096, ERRNO_MOST = 4095, ARGUMENTS = 6 };

static bool read_action(const struct reader *name, struct verdict *verdict)
{
	static const struct {
		const char *name;
		u8 action;
	} actions[] = {
		{ "SCMP_ACT_ALLOW", SECCOMP_ALLOW }, { "SCMP_ACT_LOG", SECCOMP_LOG }, { "SCMP_ACT_ERRNO", SECCOMP_ERRNO },
		{ "SCMP_ACT_TRAP", SECCOMP_TRAP }, { "SCMP_ACT_KILL", SECCOMP_KILL_THREAD },
		{ "SCMP_ACT_KILL_THREAD", SECCOMP_KILL_THREAD }, { "SCMP_ACT_KILL_PROCESS", SECCOMP_KILL_PROCESS },
	};

	for (u32 i = 0; i < ARRAY_SIZE(actions); i++)
		if (reader_is(name, actions[i].name)) {
			verdict->action = actions[i].action;
			return true;
		}
	return false;
}

static bool read_condition(struct reader r, struct condition *condition)
{
	static const char *const names[] = { "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ" };
	struct field field;
	u64 index = 0;

	*condition = (struct condition){ .comparison = ARRAY_SIZE(names) };
	while (field_next(&r, &field))
		switch (field.number) {
		case LinuxSeccompArg_Index: index = field.value; break;
		case LinuxSeccompArg_Value: condition->value = field.value; break;
		case LinuxSeccompArg_ValueTwo: condition->other = field.value; break;
		case LinuxSeccompArg_Op:
			for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
				struct reader rest = field.bytes;
				const u64 prefix = 9; /* SCMP_CMP_ */

				rest.at += reader_size(&rest) < prefix ? 0 : prefix;
				if (reader_is(&rest, names[i]))
					condition->comparison = (u8)i;
			}
			break;
		}
	condition->argument = (u8)index;
	return index < ARGUMENTS && condition->comparison < ARRAY_SIZE(names);
}

static u32 number_of(const struct reader *name)
{
	u32 number = 0;

	while (number < SYSCALLS && !(syscalls[number].name && reader_is(name, syscalls[number].name)))
		number++;
	return number;
}

/* The last one for a call, with copies of conditions. */
static s64 add_rule(struct seccomp *seccomp, u32 number, const struct seccomp_rule *like, u32 first, u32 count)
{
	struct seccomp_rule *rule, **place = &seccomp->calls[number].rules;

	if (seccomp->rule_count++ == RULES_MOST)
		return -E2BIG;
	rule = kmalloc(sizeof(*rule));
	if (!rule)
		return -ENOMEM;
	rule->verdict = like->verdict;
	rule->count = count;
	bytes_copy(rule->conditions, like->conditions + first, count * sizeof(*rule->conditions));
	while (*place)
		place = &(*place)->next;
	*place = rule;
	return 0;
}

/* Conditions on one argument are alternatives; on several, all must hold. */
static s64 add_call(struct seccomp *seccomp, u32 number, const struct seccomp_rule *like)
{
	u32 arguments = 0, twice = 0;
	s64 error = 0;

	if (!like->count) {
		if (!seccomp->calls[number].decided)
			seccomp->calls[number].verdict = like->verdict;
		seccomp->calls[number].decided = true;
		return 0;
	}
	for (u32 i = 0; i < like->count; i++) {
		twice |= arguments & 1u << like->conditions[i].argument;
		arguments |= 1u << like->conditions[i].argument;
	}
	if (!twice)
		return add_rule(seccomp, number, like, 0, like->count);
	for (u32 i = 0; i < like->count && !error; i++)
		error = add_rule(seccomp, number, like, i, 1);
	return error;
}

static s64 add_rules(struct seccomp *seccomp, struct reader message)
{
	struct seccomp_rule like = { .verdict = { .error = EPERM } };
	struct reader r = message;
	bool known = false;
	struct field field;
	s64 error = 0;

	while (field_next(&r, &field))
		switch (field.number) {
		case LinuxSyscall_Action: known = read_action(&field.bytes, &like.verdict); break;
		case LinuxSyscall_errnoret:
			if (field.value > ERRNO_MOST)
				return -EINVAL;
			like.verdict.error = (u16)field.value;
			break;
		case LinuxSyscall_Args:
			if (like.count == ARGUMENTS || !read_condition(field.bytes, &like.conditions[like.count++]))
				return -EINVAL;
			break;
		}
	if (!known)
		return -EINVAL;
	while (!error && field_next(&message, &field))
		if (field.number == LinuxSyscall_Names) {
			u32 number = number_of(&field.bytes);

			error = number < SYSCALLS ? add_call(seccomp, number, &like) : 0;
		}
	return error;
}

s64 filter_read(struct reader message, struct seccomp **filter)
{
	struct seccomp *seccomp;
	struct reader r = message;
	struct field field;
	bool known = false;
	s64 error = 0;

	*filter = NULL;
	if (!reader_size(&message))
		return 0;
	seccomp = kmalloc(sizeof(*seccomp));
	if (!seccomp)
		return -ENOMEM;
	seccomp->references = 1;
	seccomp->otherwise.error = EPERM;
	while (!error && field_next(&r, &field))
		switch (field.number) {
		case LinuxSeccomp_DefaultAction: known = read_action(&field.bytes, &seccomp->otherwise); break;
		case LinuxSeccomp_defaulterrnoret:
			error = field.value > ERRNO_MOST ? -EINVAL : 0;
			seccomp->otherwise.error = (u16)field.value;
			break;
		case LinuxSeccomp_Syscalls: error = add_rules(seccomp, field.bytes); break;
		}
	if (!error && (!known || r.broken))
		error = -EINVAL;
	if (error)
		seccomp_put(seccomp);
	else
		*filter = seccomp;
	return error;
}
