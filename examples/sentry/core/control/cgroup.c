// SPDX-License-Identifier: Apache-2.0
/* The file system cgroup2: the group of the container that looks, which has no others below it. */
#include "container.h"

#include "../vfs/synthetic.h"

enum { CGROUP2_MAGIC = 0x63677270, MICROSECOND = 1000 };

static const struct limits none;

static const struct container *own(void)
{
	return core.current->process->container;
}

static const struct limits *limits(void)
{
	return own() ? &own()->limits : &none;
}

static const struct account *account(void)
{
	return &core.ram.accounts[core.current->process->account];
}

static void put_limit(struct text *text, u64 value, bool limited)
{
	if (limited)
		text_number(text, value);
	else
		text_put(text, "max");
	text_put(text, "\n");
}

#define LIMIT(name, field, limited) \
	static void write_##name(struct text *text, struct synthetic_inode *node) \
	{ \
		(void)node; \
		put_limit(text, limits()->field, limited); \
	}

LIMIT(memory_max, memory, limits()->memory)
LIMIT(memory_high, high, limits()->high)
LIMIT(swap_max, swap, limits()->swap || limits()->no_swap)
LIMIT(pids_max, most_tasks, limits()->most_tasks)

#define NUMBER(name, value) \
	static void write_##name(struct text *text, struct synthetic_inode *node) \
	{ \
		(void)node; \
		text_line(text, "", value, ""); \
	}

NUMBER(memory_low, limits()->low)
NUMBER(memory_current, account()->pages * PAGE)
NUMBER(memory_peak, account()->most * PAGE)
NUMBER(pids_current, own() ? container_tasks(own()) : 0)
NUMBER(cpu_weight, limits()->weight ? limits()->weight : USUAL_WEIGHT)

static void write_memory_events(struct text *text, struct synthetic_inode *node)
{
	u64 killed = own() ? own()->killed : 0;

	(void)node;
	text_put(text, "low 0\nhigh 0\n");
	text_line(text, "max ", account()->failures, "");
	text_line(text, "oom ", killed, "");
	text_line(text, "oom_kill ", killed, "");
	text_put(text, "oom_group_kill 0\n");
}

static void write_cpu_max(struct text *text, struct synthetic_inode *node)
{
	const u64 usual = 100000;

	(void)node;
	if (limits()->quota)
		text_number(text, limits()->quota / MICROSECOND);
	else
		text_put(text, "max");
	text_line(text, " ", limits()->period ? limits()->period / MICROSECOND : usual, "");
}

static void write_cpu_stat(struct text *text, struct synthetic_inode *node)
{
	const struct container *container = own();
	u64 time = container ? container_cpu_time(container) / MICROSECOND : 0;

	(void)node;
	text_line(text, "usage_usec ", time, "");
	text_line(text, "user_usec ", time, "");
	text_put(text, "system_usec 0\n");
	text_line(text, "nr_periods ", container ? container->quota.periods : 0, "");
	text_line(text, "nr_throttled ", container ? container->quota.throttled : 0, "");
	text_line(text, "throttled_usec ", container ? container->quota.throttled_time / MICROSECOND : 0, "");
}

static void put_cpus(struct text *text, u64 mask)
{
	text_cpu_list(text, mask);
	text_put(text, "\n");
}

static void write_cpus(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_cpus(text, limits()->cpus);
}

static void write_all_cpus(struct text *text, struct synthetic_inode *node)
{
	const u64 all = ~0ull >> (64 - core.cpus);

	(void)node;
	put_cpus(text, limits()->cpus ? limits()->cpus : all);
}

static void write_procs(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	EACH_PROCESS(p)
		if (p->container == own() && !p->zombie)
			text_line(text, "", p->pids == core.current->process->pids ? (u64)p->pid : 0, "");
}

static void write_events(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, "populated 1\n");
	text_line(text, "frozen ", own() && own()->frozen, "");
}

static const struct synthetic files[] = {
	{ .name = "cgroup.controllers", .fixed = "cpuset cpu memory pids\n" },
	{ .name = "cgroup.events", .write = write_events },
	{ .name = "cgroup.procs", .write = write_procs },
	{ .name = "cgroup.subtree_control", .fixed = "\n" },
	{ .name = "cgroup.type", .fixed = "domain\n" },
	{ .name = "cpu.max", .write = write_cpu_max },
	{ .name = "cpu.stat", .write = write_cpu_stat },
	{ .name = "cpu.weight", .write = write_cpu_weight },
	{ .name = "cpuset.cpus", .write = write_cpus },
	{ .name = "cpuset.cpus.effective", .write = write_all_cpus },
	{ .name = "memory.current", .write = write_memory_current },
	{ .name = "memory.events", .write = write_memory_events },
	{ .name = "memory.high", .write = write_memory_high },
	{ .name = "memory.low", .write = write_memory_low },
	{ .name = "memory.max", .write = write_memory_max },
	{ .name = "memory.peak", .write = write_memory_peak },
	{ .name = "memory.swap.current", .fixed = "0\n" },
	{ .name = "memory.swap.max", .write = write_swap_max },
	{ .name = "pids.current", .write = write_pids_current },
	{ .name = "pids.max", .write = write_pids_max },
};

struct super *cgroup_new(void)
{
	return synthetic_new("cgroup2", CGROUP2_MAGIC, files, ARRAY_SIZE(files));
}
