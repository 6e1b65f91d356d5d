// SPDX-License-Identifier: Apache-2.0
/* /proc but for processes, and /sys. */
#include "../ipc/ipc.h"
#include "caller.h"
#include "process_file.h"
#include "../net/proc_net.h"
#include "synthetic.h"

static void write_vmstat(struct text *text, struct synthetic_inode *node)
{
	static const char *const zeros[] = { "pgpgin ", "pgpgout ", "pswpin ", "pswpout ", "pgfault ", "pgmajfault ", "oom_kill " };

	(void)node;
	text_line(text, "nr_free_pages ", core.ram.available, "");
	for (u32 i = 0; i < ARRAY_SIZE(zeros); i++)
		text_line(text, zeros[i], 0, "");
}

static void write_meminfo(struct text *text, struct synthetic_inode *node)
{
	u64 total = core.ram.count * (PAGE / 1024), free = core.ram.available * (PAGE / 1024);
	static const char *const zeros[] = {
		"Buffers:               ", "Cached:                ", "SwapCached:            ", "Active:                ",
		"Inactive:              ", "SwapTotal:             ", "SwapFree:              ", "Dirty:                 ",
		"Writeback:             ", "AnonPages:             ", "Mapped:                ", "Shmem:                 ",
		"Slab:                  ", "HugePages_Total:       ", "HugePages_Free:        ",
	};

	(void)node;
	text_line(text, "MemTotal:       ", total, " kB");
	text_line(text, "MemFree:        ", free, " kB");
	text_line(text, "MemAvailable:   ", free, " kB");
	for (u32 i = 0; i < ARRAY_SIZE(zeros); i++)
		text_line(text, zeros[i], 0, " kB");
	text_line(text, "CommitLimit:    ", total, " kB");
	text_line(text, "Hugepagesize:   ", 2048, " kB");
}

static u32 cpuid(u32 leaf, u32 *b, u32 *c, u32 *d)
{
	u32 a = leaf;

	*c = 0;
	asm volatile("cpuid" : "+a"(a), "=b"(*b), "+c"(*c), "=d"(*d));
	return a;
}

static void put_cpu(struct text *text, u32 number)
{
	char vendor[13] = "", brand[49] = "";
	u32 b, c, d, a = cpuid(0, &b, &c, &d), *name = (u32 *)brand;
	const u32 letters[] = { b, d, c };

	(void)a;
	bytes_copy(vendor, letters, 12);
	a = cpuid(1, &b, &c, &d);
	for (u32 i = 0; cpuid(0x80000000, &b, &c, &d) >= 0x80000004 && i < 3; i++, name += 4)
		name[0] = cpuid(0x80000002 + i, &name[1], &name[2], &name[3]);
	text_line(text, "processor\t: ", number, "");
	text_put(text, "vendor_id\t: ");
	text_put(text, vendor);
	text_line(text, "\ncpu family\t: ", (a >> 8 & 15) + (a >> 20 & 255), "");
	text_line(text, "model\t\t: ", (a >> 4 & 15) | (a >> 12 & 0xf0), "");
	text_put(text, "model name\t: ");
	text_put(text, brand);
	text_line(text, "\nstepping\t: ", a & 15, "");
	text_put(text, "cpu MHz\t\t: 1000.000\nphysical id\t: 0\n");
	text_line(text, "siblings\t: ", core.cpus, "");
	text_line(text, "core id\t\t: ", number, "");
	text_line(text, "cpu cores\t: ", core.cpus, "");
	text_put(text, "fpu\t\t: yes\ncpuid level\t: 13\nflags\t\t: fpu tsc msr cx8 cmov fxsr sse sse2 syscall nx lm\n"
		       "bogomips\t: 2000.00\nclflush size\t: 64\ncache_alignment\t: 64\n"
		       "address sizes\t: 46 bits physical, 48 bits virtual\n\n");
}

static void write_cpuinfo(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	for (u32 i = 0; i < core.cpus; i++)
		put_cpu(text, i);
}

/* All CPUs, as a list or as a mask. */
static void write_cpu_list(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_cpu_list(text, ~0ull >> (CPUS - core.cpus));
	text_put(text, "\n");
}

static void write_cpu_mask(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_cpus(text, ~0ull >> (CPUS - core.cpus));
	text_put(text, "\n");
}

void text_cpus(struct text *text, u64 mask)
{
	if (mask >> 32) {
		text_hex(text, mask >> 32, 1);
		text_put(text, ",");
	}
	text_hex(text, (u32)mask, mask >> 32 ? 8 : 1);
}

void text_cpu_list(struct text *text, u64 mask)
{
	const char *comma = "";

	for (u32 first = 0, end; first < CPUS; first = end + 1) {
		end = first;
		while (end < CPUS && mask >> end & 1)
			end++;
		if (end == first)
			continue;
		text_put(text, comma);
		text_number(text, first);
		if (end - first > 1) {
			text_put(text, "-");
			text_number(text, end - 1);
		}
		comma = ",";
	}
}

static u64 idle_time(void)
{
	u64 sum = 0;

	for (u32 i = 0; i < core.cpus; i++)
		sum += cpu_idle_time(i);
	return sum;
}

static void put_hundredths(struct text *text, u64 nanoseconds)
{
	text_number(text, nanoseconds / 1000000000);
	text_put(text, ".");
	text_number(text, nanoseconds / 100000000 % 10);
	text_number(text, nanoseconds / 10000000 % 10);
}

static void write_uptime(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_hundredths(text, monotonic_now() - vfs.started);
	text_put(text, " ");
	put_hundredths(text, idle_time());
	text_put(text, "\n");
}

static void put_times(struct text *text, u64 all, u64 idle)
{
	enum { TICK = 10000000 };

	text_put(text, " ");
	text_number(text, (all > idle ? all - idle : 0) / TICK);
	text_put(text, " 0 0 ");
	text_number(text, idle / TICK);
	text_put(text, " 0 0 0 0 0 0\n");
}

static void write_stat(struct text *text, struct synthetic_inode *node)
{
	u64 now = core.ops->nanoseconds(CLOCK_IS_REALTIME), up = monotonic_now() - vfs.started;

	(void)node;
	text_put(text, "cpu ");
	put_times(text, up * core.cpus, idle_time());
	for (u32 i = 0; i < core.cpus; i++) {
		text_put(text, "cpu");
		text_number(text, i);
		put_times(text, up, cpu_idle_time(i));
	}
	text_put(text, "intr 0\nctxt 0\n");
	text_line(text, "btime ", (now - up) / 1000000000, "");
	text_put(text, "processes 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
}

static void put_uuid(struct text *text, u8 *bytes)
{
	static const u8 parts[] = { 4, 2, 2, 2, 6 };

	bytes[6] = (bytes[6] & 15) | 0x40;
	bytes[8] = (bytes[8] & 63) | 0x80;
	for (u32 i = 0; i < ARRAY_SIZE(parts); i++) {
		text_put(text, i ? "-" : "");
		for (u32 j = 0; j < parts[i]; j++)
			text_hex(text, *bytes++, 2);
	}
	text_put(text, "\n");
}

static void write_uuid(struct text *text, struct synthetic_inode *node)
{
	u8 bytes[16];

	(void)node;
	core.ops->random(bytes, sizeof(bytes));
	put_uuid(text, bytes);
}

static void write_boot_id(struct text *text, struct synthetic_inode *node)
{
	const u8 none[sizeof(vfs.boot_id)] = { 0 };

	(void)node;
	if (bytes_equal(vfs.boot_id, none, sizeof(none))) /* at the first read: clones of a sandbox have their own */
		core.ops->random(vfs.boot_id, sizeof(vfs.boot_id));
	put_uuid(text, vfs.boot_id);
}

static void write_release(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, system_name()->release);
	text_put(text, "\n");
}

static void write_version(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, system_name()->version);
	text_put(text, "\n");
}

static void write_hostname(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, system_name()->node);
	text_put(text, "\n");
}

static void write_domainname(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, system_name()->domain);
	text_put(text, "\n");
}

static s64 store_hostname(struct synthetic_inode *node, const char *data, u64 size)
{
	(void)node;
	system_set_hostname(space_of(core.current->process, SPACE_UTS), data);
	return (s64)size;
}

static s64 store_domainname(struct synthetic_inode *node, const char *data, u64 size)
{
	(void)node;
	system_set_domainname(space_of(core.current->process, SPACE_UTS), data);
	return (s64)size;
}

static void write_most_tasks(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_line(text, "", core.config->most_tasks ? core.config->most_tasks : 32768, "");
}

#define IPC(kind) \
	static void write_##kind(struct text *text, struct synthetic_inode *node) \
	{ \
		(void)node; \
		kind##_show(text); \
	}

IPC(shm)
IPC(sem)
IPC(msg)

static void write_whole_version(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, "Linux version ");
	text_put(text, system_name()->release);
	text_put(text, " (pyvmm) (gcc) ");
	text_put(text, system_name()->version);
	text_put(text, "\n");
}

static s64 ignore(struct synthetic_inode *node, const char *data, u64 size)
{
	(void)node, (void)data;
	return (s64)size;
}

static const char *parameter_of(const struct synthetic_inode *node)
{
	return node->entry->name + sizeof("sys/") - 1;
}

static void write_parameter(struct text *text, struct synthetic_inode *node)
{
	sysctl_show(text, parameter_of(node));
}

static s64 store_parameter(struct synthetic_inode *node, const char *data, u64 size)
{
	const s64 error = sysctl_set(ipc_own(), parameter_of(node), data);

	return error ? error : (s64)size;
}

/* That sysctl.c has. */
#define PARAMETER(path) { .name = "sys/" path, .write = write_parameter, .store = store_parameter }

static const struct synthetic proc_files[] = {
	{ .name = "cgroups", .fixed = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" },
	{ .name = "cmdline", .fixed = "\n" },
	{ .name = "cpuinfo", .write = write_cpuinfo },
	{ .name = "devices", .fixed = "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n" },
	{ .name = "filesystems", .fixed = "nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\nnodev\toverlay\nnodev\tdevtmpfs\nnodev\tdevpts\n"
					  "nodev\tcgroup2\n" },
	{ .name = "keys", .fixed = "" },
	{ .name = "loadavg", .fixed = "0.00 0.00 0.00 1/1 1\n" },
	{ .name = "meminfo", .write = write_meminfo },
	{ .name = "modules", .fixed = "" },
	{ .name = "mounts", .target = "self/mounts" },
	{ .name = "net", .target = "self/net" },
	{ .name = "stat", .write = write_stat },
	{ .name = "swaps", .fixed = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" },
	{ .name = "sys/fs/file-max", .fixed = "9223372036854775807\n" },
	{ .name = "sys/fs/inotify/max_queued_events", .fixed = "16384\n" },
	{ .name = "sys/fs/inotify/max_user_instances", .fixed = "128\n" },
	{ .name = "sys/fs/inotify/max_user_watches", .fixed = "65536\n" },
	PARAMETER("fs/mqueue/msg_default"),
	PARAMETER("fs/mqueue/msg_max"),
	PARAMETER("fs/mqueue/msgsize_default"),
	PARAMETER("fs/mqueue/msgsize_max"),
	PARAMETER("fs/mqueue/queues_max"),
	{ .name = "sys/fs/nr_open", .fixed = "1048576\n" },
	{ .name = "sys/fs/pipe-max-size", .fixed = "1048576\n" },
	{ .name = "sys/kernel/cap_last_cap", .fixed = "40\n" },
	{ .name = "sys/kernel/core_pattern", .fixed = "core\n", .store = ignore },
	{ .name = "sys/kernel/domainname", .write = write_domainname, .store = store_domainname },
	{ .name = "sys/kernel/hostname", .write = write_hostname, .store = store_hostname },
	{ .name = "sys/kernel/ngroups_max", .fixed = "65536\n" },
	PARAMETER("kernel/msgmax"),
	PARAMETER("kernel/msgmnb"),
	PARAMETER("kernel/msgmni"),
	PARAMETER("kernel/sem"),
	PARAMETER("kernel/shmall"),
	PARAMETER("kernel/shmmax"),
	PARAMETER("kernel/shmmni"),
	{ .name = "sys/kernel/osrelease", .write = write_release },
	{ .name = "sys/kernel/ostype", .fixed = "Linux\n" },
	{ .name = "sys/kernel/overflowgid", .fixed = "65534\n" },
	{ .name = "sys/kernel/overflowuid", .fixed = "65534\n" },
	{ .name = "sys/kernel/pid_max", .fixed = "4194304\n" },
	{ .name = "sys/kernel/random/boot_id", .write = write_boot_id },
	{ .name = "sys/kernel/random/entropy_avail", .fixed = "256\n" },
	{ .name = "sys/kernel/random/uuid", .write = write_uuid },
	{ .name = "sys/kernel/randomize_va_space", .fixed = "2\n" },
	{ .name = "sys/kernel/threads-max", .write = write_most_tasks },
	{ .name = "sys/kernel/version", .write = write_version },
	{ .name = "sys/kernel/yama/ptrace_scope", .fixed = "0\n" },
	PARAMETER("net/core/somaxconn"),
	PARAMETER("net/ipv4/ip_default_ttl"),
	PARAMETER("net/ipv4/ip_forward"),
	PARAMETER("net/ipv4/ip_local_port_range"),
	PARAMETER("net/ipv4/ip_unprivileged_port_start"),
	PARAMETER("net/ipv4/ping_group_range"),
	PARAMETER("net/ipv4/tcp_keepalive_intvl"),
	PARAMETER("net/ipv4/tcp_keepalive_probes"),
	PARAMETER("net/ipv4/tcp_keepalive_time"),
	{ .name = "sys/vm/max_map_count", .fixed = "32768\n" },
	{ .name = "sys/vm/mmap_min_addr", .fixed = "65536\n" },
	{ .name = "sys/vm/overcommit_memory", .fixed = "1\n" },
	{ .name = "sysvipc/msg", .write = write_msg },
	{ .name = "sysvipc/sem", .write = write_sem },
	{ .name = "sysvipc/shm", .write = write_shm },
	{ .name = "timer_list", .fixed = "Timer List Version: v0.9\n", .mode = 0400 }, /* which engines mask */
	{ .name = "uptime", .write = write_uptime },
	{ .name = "version", .write = write_whole_version },
	{ .name = "vmstat", .write = write_vmstat },
};

static const struct synthetic sys_files[] = {
	{ .name = "block/" },
	{ .name = "devices/system/cpu/online", .write = write_cpu_list },
	{ .name = "devices/system/cpu/possible", .write = write_cpu_list },
	{ .name = "devices/system/cpu/present", .write = write_cpu_list },
	{ .name = "devices/system/node/node0/cpulist", .write = write_cpu_list },
	{ .name = "devices/system/node/node0/cpumap", .write = write_cpu_mask },
	{ .name = "devices/system/node/online", .fixed = "0\n" },
	{ .name = "devices/system/node/possible", .fixed = "0\n" },
	{ .name = "firmware/" },
	{ .name = "fs/cgroup/cgroup.controllers", .fixed = "\n" },
	{ .name = "kernel/mm/transparent_hugepage/enabled", .fixed = "always madvise [never]\n" },
	{ .name = "kernel/mm/transparent_hugepage/hpage_pmd_size", .fixed = "2097152\n" },
};

/* -- processes -- */

static bool is_there(struct inode *inode)
{
	return process_task(synthetic_of(inode)) != NULL;
}

/* NULL, with *error: there is no such process, or no memory. */
static struct inode *process_directory(struct super *super, s32 pid, int *error)
{
	const struct synthetic_inode node = {
		.table = process_files, .count = process_file_count, .prefix = "", .pid = pid, .valid = is_there,
		.pids = synthetic_of(super->root->inode)->pids,
	};
	struct inode *inode = process_task(&node) ? synthetic_inode(super, &node, NULL, S_IFDIR | 0555) : NULL;

	*error = inode || !process_task(&node) ? 0 : -ENOMEM;
	return inode;
}

/* A number without a sign or zeros before it; -1. */
s32 number_of(const char *text)
{
	u64 value = 0;

	if (*text == '0' && text[1])
		return -1;
	for (u32 i = 0; text[i]; i++) {
		if (text[i] < '0' || text[i] > '9' || i > 9)
			return -1;
		value = value * 10 + (u64)(text[i] - '0');
	}
	return *text && value < 0x7fffffff ? (s32)value : -1;
}

static s64 read_self(struct inode *inode, char *target, u64 size)
{
	struct text text = { .data = NULL };
	s64 used;

	if (core.current->process->pids != synthetic_of(inode->super->root->inode)->pids)
		return -ENOENT;
	text_number(&text, (u64)core.current->process->pid);
	if (inode->data) {
		text_put(&text, "/task/");
		text_number(&text, (u64)core.current->tid);
	}
	used = (s64)(text.size < size ? text.size : size);
	bytes_copy(target, text.data, (u64)used);
	text_free(&text);
	return used;
}

static const struct inode_operations self_operations = { .readlink = read_self };

static int look_up_process(struct inode *directory, struct dentry *dentry)
{
	bool self = strings_equal(dentry->name, "self"), thread = strings_equal(dentry->name, "thread-self");
	s32 pid = number_of(dentry->name);
	int error = 0;

	if (self || thread) {
		dentry->inode = synthetic_inode(directory->super, NULL, NULL, S_IFLNK | 0777);
		if (!dentry->inode)
			return -ENOMEM;
		dentry->inode->operations = &self_operations;
		if (self) {
			synthetic_free(dentry->inode);
			dentry->inode->data = NULL;
		}
		return 0;
	}
	if (pid > 0)
		dentry->inode = process_directory(directory->super, pid, &error);
	return error;
}

static s32 process_after(const struct synthetic_inode *node, s32 pid)
{
	s32 next = 0;

	EACH_PROCESS(p)
		if (p->pids == node->pids && p->pid > pid && (!next || p->pid < next) && !list_empty(&p->tasks))
			next = p->pid;
	return next;
}

static bool list_processes(struct file *file, struct entries *entries)
{
	u64 first = synthetic_of(file->inode)->count + 2;

	if (file->position == first) {
		if (!entries_put(entries, "self", 4, 2, DT_LNK, first + 1))
			return false;
		file->position++;
	}
	if (file->position == first + 1) {
		if (!entries_put(entries, "thread-self", 11, 3, DT_LNK, first + 2))
			return false;
		file->position++;
	}
	return list_numbers(file, entries, first + 2, process_after);
}

const struct synthetic *proc_file(const char *name)
{
	const struct synthetic *entry = proc_files;

	while (!strings_equal(entry->name, name))
		entry++;
	return entry;
}

struct super *proc_new(u32 pids)
{
	struct super *super = synthetic_new("proc", PROC_MAGIC, proc_files, ARRAY_SIZE(proc_files));
	struct synthetic_inode *root;

	if (!super)
		return NULL;
	if (!vfs.started)
		vfs.started = monotonic_now();
	root = synthetic_of(super->root->inode);
	root->lookup = look_up_process;
	root->list = list_processes;
	root->pids = pids;
	return super;
}

/* The fixed files, and those for each CPU and interface. */
static struct super *sys_make(void)
{
	enum { FIXED = ARRAY_SIZE(sys_files) };
	static char names[CPUS][40];
	static struct synthetic files[FIXED + CPUS + NET_SYS_FILES];

	bytes_copy(files, sys_files, sizeof(sys_files));
	for (u32 i = 0; i < core.cpus; i++) {
		struct text text = { .data = NULL };

		text_put(&text, "devices/system/cpu/cpu");
		text_number(&text, i);
		text_put(&text, "/online");
		if (text.failed)
			return NULL;
		bytes_copy(names[i], text.data, text.size);
		text_free(&text);
		files[FIXED + i] = (struct synthetic){ .name = names[i], .fixed = "1\n" };
	}
	return synthetic_new("sysfs", SYSFS_MAGIC, files, FIXED + core.cpus + net_sys_files(files + FIXED + core.cpus));
}

struct super *sys_new(void)
{
	if (!vfs.sys)
		vfs.sys = sys_make();
	if (vfs.sys) /* one for all mounts, which is never freed */
		reference_get(&vfs.sys->references);
	return vfs.sys;
}

void sys_forget(void)
{
	if (vfs.sys)
		super_put(vfs.sys);
	vfs.sys = NULL;
}
