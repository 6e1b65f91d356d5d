// SPDX-License-Identifier: Apache-2.0
/* Limits of containers, and what they use. */
#include "container.h"


enum { MICROSECOND = 1000, PERIOD = 100000000 };

/* -- limits -- */

static bool digit(const struct reader *r)
{
	return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

static u64 read_cpu(struct reader *r)
{
	u64 number = 0;

	while (digit(r) && number < CPUS)
		number = number * 10 + (u64)(*r->at++ - '0');
	return number;
}

/* A list of CPUs such as 0-2,5 as a mask; those that the sandbox lacks are left out. 0: it is no list, or none is left. */
static u64 read_cpus(struct reader r)
{
	u64 mask = 0;

	while (digit(&r)) {
		u64 first = read_cpu(&r), last = first;

		if (r.at < r.end && *r.at == '-') {
			r.at++;
			if (!digit(&r))
				return 0;
			last = read_cpu(&r);
		}
		for (u64 i = first; i <= last && i < core.cpus; i++)
			mask |= 1ull << i;
		if (r.at < r.end && *r.at == ',')
			r.at++;
	}
	return r.at == r.end ? mask : 0;
}

/* A limit that is not named does not change; a negative one is none. */
static u64 limit_of(const struct field *field)
{
	return (s64)field->value < 0 ? 0 : field->value;
}

static void read_memory(struct reader r, struct limits *limits)
{
	u64 swap = 0; /* together with memory */
	struct field field;

	while (field_next(&r, &field))
		switch (field.number) {
		case LinuxMemory_Limit: limits->memory = limit_of(&field); break;
		case LinuxMemory_Reservation: limits->low = limit_of(&field); break;
		case LinuxMemory_High: limits->high = limit_of(&field); break;
		case LinuxMemory_Swap: swap = limit_of(&field); break;
		}
	if (swap >= limits->memory && swap) {
		limits->swap = swap - limits->memory;
		limits->no_swap = !limits->swap;
	}
}

/* As cgroup v2 has them: a weight of 1 to 10,000 for 2 to 262,144 shares. */
static u64 weight_of(u64 shares)
{
	enum { LEAST = 2, MOST = 262144, WEIGHTS = 9999 };

	shares = shares < LEAST ? LEAST : shares > MOST ? MOST : shares;
	return 1 + (shares - LEAST) * WEIGHTS / (MOST - LEAST);
}

static s64 read_cpu_limits(struct reader r, struct limits *limits)
{
	struct field field;

	while (field_next(&r, &field))
		switch (field.number) {
		case LinuxCPU_Shares: limits->weight = weight_of(field.value); break;
		case LinuxCPU_Quota: limits->quota = limit_of(&field) * MICROSECOND; break;
		case LinuxCPU_Period: limits->period = field.value * MICROSECOND; break;
		case LinuxCPU_Cpus:
			if (!reader_size(&field.bytes))
				break;
			limits->cpus = read_cpus(field.bytes);
			if (!limits->cpus)
				return -EINVAL;
			break;
		}
	if (limits->period < 1000 * MICROSECOND || limits->period > 1000000ull * MICROSECOND)
		limits->period = PERIOD;
	return 0;
}

/* Tasks that run count from now on. */
static void apply(struct container *container, const struct limits *limits)
{
	container->limits = *limits;
	if (container->account)
		core.ram.accounts[container->account].limit = (limits->memory + PAGE - 1) / PAGE;
	container->quota.start = monotonic_now();
	container->quota.used = 0;
	EACH_PROCESS(p)
		if (p->container == container)
			EACH_TASK(t, p) {
				t->counted = t->cpu_time;
				if (limits->cpus)
					t->affinity = limits->cpus;
				task_interrupt(t, true);
			}
	wake_all(&container->changed);
}

s64 limits_set(struct container *container, struct reader resources)
{
	struct limits limits = container->limits;
	struct reader pids = reader_part(resources, LinuxResources_Pids);
	struct field field;
	s64 error = read_cpu_limits(reader_part(resources, LinuxResources_CPU), &limits);

	if (error)
		return error;
	read_memory(reader_part(resources, LinuxResources_Memory), &limits);
	while (field_next(&pids, &field))
		if (field.number == LinuxPids_Limit)
			limits.most_tasks = limit_of(&field);
	apply(container, &limits);
	return 0;
}

s64 update_container(struct call *call)
{
	struct container *container = container_of(call);
	const struct reader config = reader_part(call->request, UpdateContainerRequest_config);

	if (!container)
		return 0;
	if (reader_size(&config))
		return call_fail(call, STATUS_INVALID_ARGUMENT, "the Sentry reads no JSON: send a message", NULL, NULL);
	return limits_set(container, reader_part(call->request, UpdateContainerRequest_resources));
}

void limits_wait(struct task *t)
{
	struct container *container = t->process->container;
	const struct limits *limits = &container->limits;

	container->quota.used += t->cpu_time - t->counted;
	t->counted = t->cpu_time;
	while (limits->quota && !t->process->ending) {
		u64 now = monotonic_now(), passed = (now - container->quota.start) / limits->period;

		container->quota.start += passed * limits->period;
		container->quota.periods += passed;
		container->quota.used -= passed > container->quota.used / limits->quota ? container->quota.used :
										   passed * limits->quota;
		if (container->quota.used < limits->quota)
			return;
		container->quota.throttled += passed > 0;
		sleep_on_killable(&container->changed, container->quota.start + limits->period);
		container->quota.throttled_time += monotonic_now() - now;
		signal_deliver(t);
	}
}

/* -- what is used -- */

static void put_memory(struct text *to, const struct account *account)
{
	struct text usage = { .data = NULL }, part = { .data = NULL };

	put_field_number(&usage, MemoryData_usage, account->pages * PAGE);
	put_field_number(&usage, MemoryData_max_usage, account->most * PAGE);
	put_field_number(&usage, MemoryData_failcnt, account->failures);
	put_field_number(&usage, MemoryData_limit, (account->limit ? account->limit : core.ram.count) * PAGE);
	put_field_message(&part, MemoryStats_usage, &usage);
	put_field_number(&part, MemoryStats_use_hierarchy, 1);
	put_field_message(to, CgroupStats_memory_stats, &part);
}

static void put_statistics(struct text *to, const struct container *container)
{
	struct text usage = { .data = NULL }, part = { .data = NULL };
	u64 cpu_time = container_cpu_time(container);

	put_field_number(&usage, CpuUsage_total_usage, cpu_time);
	put_field_number(&usage, CpuUsage_usage_in_usermode, cpu_time);
	put_field_message(&part, CpuStats_cpu_usage, &usage);
	put_field_number(&usage, ThrottlingData_periods, container->quota.periods);
	put_field_number(&usage, ThrottlingData_throttled_periods, container->quota.throttled);
	put_field_number(&usage, ThrottlingData_throttled_time, container->quota.throttled_time);
	put_field_message(&part, CpuStats_throttling_data, &usage);
	put_field_message(to, CgroupStats_cpu_stats, &part);
	put_memory(to, &core.ram.accounts[container->account]);
	put_field_number(&part, PidsStats_current, container_tasks(container));
	put_field_number(&part, PidsStats_limit, container->limits.most_tasks);
	put_field_message(to, CgroupStats_pids_stats, &part);
}

s64 stats_container(struct call *call)
{
	struct container *container = container_of(call);
	struct text statistics = { .data = NULL };

	if (!container)
		return 0;
	put_statistics(&statistics, container);
	put_field_message(&call->answer, StatsContainerResponse_cgroup_stats, &statistics);
	return 0;
}
