// SPDX-License-Identifier: Apache-2.0
/* Filters of system calls: what a call is worth, and what follows. */
#include "ptrace.h"
#include "seccomp.h"

void seccomp_get(struct seccomp *seccomp)
{
	if (seccomp)
		reference_get(&seccomp->references);
}

void seccomp_put(struct seccomp *seccomp)
{
	if (!seccomp || !reference_put(&seccomp->references))
		return;
	for (u32 i = 0; i < SYSCALLS; i++)
		for (struct seccomp_rule *rule = seccomp->calls[i].rules, *next; rule; rule = next) {
			next = rule->next;
			kfree(rule);
		}
	kfree(seccomp);
}

static bool holds(const struct condition *condition, const u64 *args)
{
	u64 value = args[condition->argument];

	switch (condition->comparison) {
	case COMPARE_NE: return value != condition->value;
	case COMPARE_LT: return value < condition->value;
	case COMPARE_LE: return value <= condition->value;
	case COMPARE_EQ: return value == condition->value;
	case COMPARE_GE: return value >= condition->value;
	case COMPARE_GT: return value > condition->value;
	}
	return (value & condition->value) == condition->other;
}

static bool matches(const struct seccomp_rule *rule, const u64 *args)
{
	for (u32 i = 0; i < rule->count; i++)
		if (!holds(&rule->conditions[i], args))
			return false;
	return true;
}

static struct verdict judge(const struct seccomp *seccomp, u64 number, const u64 *args)
{
	if (number >= SYSCALLS)
		return seccomp->otherwise;
	if (seccomp->calls[number].decided)
		return seccomp->calls[number].verdict;
	for (const struct seccomp_rule *rule = seccomp->calls[number].rules; rule; rule = rule->next)
		if (matches(rule, args))
			return rule->verdict;
	return seccomp->otherwise;
}

bool seccomp_log(void)
{
	log_text("seccomp: a system call is logged\n");
	return true;
}

bool seccomp_kill(struct task *t, s32 signal, bool process)
{
	if (!process && t->tracee)
		t->tracee->status = signal;
	if (!process && t->process->task_count > 1)
		task_exit(t);
	process_end(t->process, signal);
	return false;
}

bool seccomp_allows(struct task *t, const u64 *args, s64 *result)
{
	struct verdict verdict = judge(t->seccomp, t->number, args);

	*result = -ENOSYS;
	switch (verdict.action) {
	case SECCOMP_LOG: return seccomp_log();
	case SECCOMP_ERRNO: *result = -(s64)verdict.error; return false;
	case SECCOMP_TRAP:
		*result = (s64)t->number;
		signal_force_seccomp(t, 0);
		return false;
	case SECCOMP_KILL_THREAD:
	case SECCOMP_KILL_PROCESS: return seccomp_kill(t, SIGSYS, verdict.action == SECCOMP_KILL_PROCESS);
	}
	return true;
}
