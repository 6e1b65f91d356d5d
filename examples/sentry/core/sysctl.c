// SPDX-License-Identifier: Apache-2.0
/* Kernel parameters: their names, ranges and values. */
#include "sysctl.h"

#include "ipc/ipc.h"

enum { MOST_INT = 0x7fffffff, PORTS_END = 65535, GROUPS_END = 0x7fffffff, NUMBERS = 4 };

static u64 network[SYSCTLS - IPC_SYSCTLS];

/* Ranges are Linux's, or what there is room for. NULL: a further number of the name before. */
static const struct row {
	const char *name;
	u64 usual, least, most;
} rows[SYSCTLS] = {
	[SYSCTL_MSGMAX] = { "kernel/msgmax", 8192, 0, 16 << 20 },
	[SYSCTL_MSGMNB] = { "kernel/msgmnb", 16384, 0, MOST_INT },
	[SYSCTL_MSGMNI] = { "kernel/msgmni", IPC_MOST, 0, IPC_MOST },
	[SYSCTL_SEMMSL] = { "kernel/sem", 32000, 0, 65536 },
	[SYSCTL_SEMMNS] = { NULL, 1 << 20, 0, MOST_INT },
	[SYSCTL_SEMOPM] = { NULL, 500, 0, 4096 },
	[SYSCTL_SEMMNI] = { NULL, IPC_MOST, 0, IPC_MOST },
	[SYSCTL_SHMALL] = { "kernel/shmall", 1 << 28, 0, ~0ull },
	[SYSCTL_SHMMAX] = { "kernel/shmmax", 1ull << 40, 0, ~0ull },
	[SYSCTL_SHMMNI] = { "kernel/shmmni", IPC_MOST, 0, IPC_MOST },
	[SYSCTL_MQ_MSG_DEFAULT] = { "fs/mqueue/msg_default", 10, 1, 65536 },
	[SYSCTL_MQ_MSG_MAX] = { "fs/mqueue/msg_max", 10, 1, 65536 },
	[SYSCTL_MQ_MSGSIZE_DEFAULT] = { "fs/mqueue/msgsize_default", 8192, 128, 16 << 20 },
	[SYSCTL_MQ_MSGSIZE_MAX] = { "fs/mqueue/msgsize_max", 8192, 128, 16 << 20 },
	[SYSCTL_MQ_QUEUES_MAX] = { "fs/mqueue/queues_max", 256, 0, MOST_INT },
	[SYSCTL_SOMAXCONN] = { "net/core/somaxconn", 4096, 0, MOST_INT },
	[SYSCTL_IP_DEFAULT_TTL] = { "net/ipv4/ip_default_ttl", 64, 1, 255 },
	/* There is one interface, so packets are forwarded nowhere. */
	[SYSCTL_IP_FORWARD] = { "net/ipv4/ip_forward", 0, 0, MOST_INT },
	[SYSCTL_LOCAL_PORT_FIRST] = { "net/ipv4/ip_local_port_range", 32768, 1, PORTS_END },
	[SYSCTL_LOCAL_PORT_LAST] = { NULL, 60999, 1, PORTS_END },
	[SYSCTL_UNPRIVILEGED_PORT] = { "net/ipv4/ip_unprivileged_port_start", 1024, 0, PORTS_END },
	/* There are no sockets for ICMP, which this allows to groups. */
	[SYSCTL_PING_GROUP_FIRST] = { "net/ipv4/ping_group_range", 1, 0, GROUPS_END },
	[SYSCTL_PING_GROUP_LAST] = { NULL, 0, 0, GROUPS_END },
	[SYSCTL_TCP_KEEPALIVE_INTVL] = { "net/ipv4/tcp_keepalive_intvl", 75, 1, 32767 },
	[SYSCTL_TCP_KEEPALIVE_PROBES] = { "net/ipv4/tcp_keepalive_probes", 9, 1, 127 },
	[SYSCTL_TCP_KEEPALIVE_TIME] = { "net/ipv4/tcp_keepalive_time", 7200, 1, 32767 },
};

static u64 *value_of(struct ipc_tables *tables, u32 which)
{
	return which < IPC_SYSCTLS ? &tables->sysctls[which] : &network[which - IPC_SYSCTLS];
}

void sysctls_init(void)
{
	for (u32 i = IPC_SYSCTLS; i < SYSCTLS; i++)
		*value_of(NULL, i) = rows[i].usual;
}

void sysctls_init_ipc(struct ipc_tables *tables)
{
	for (u32 i = 0; i < IPC_SYSCTLS; i++)
		*value_of(tables, i) = rows[i].usual;
}

u64 sysctl(enum sysctl which)
{
	return *value_of(which < IPC_SYSCTLS ? ipc_own() : NULL, which);
}

static bool is_named(const char *row, const char *name)
{
	for (; row && *row && (*row == *name || (*row == '/' && *name == '.')); row++)
		name++;
	return row && !*row && !*name;
}

/* The first value of a name, and how many it has; SYSCTLS: there is none. */
static u32 find(const char *name, u32 *count)
{
	u32 which = 0;

	while (which < SYSCTLS && !is_named(rows[which].name, name))
		which++;
	for (*count = 1; which + *count < SYSCTLS && !rows[which + *count].name;)
		++*count;
	return which;
}

void sysctl_show(struct text *text, const char *name)
{
	u32 count, which = find(name, &count);

	for (u32 i = 0; i < count; i++) {
		text_number(text, sysctl((enum sysctl)(which + i)));
		text_put(text, i + 1 < count ? "\t" : "\n");
	}
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

/* The number at a place, which moves behind it; false: there is none, or it is too large. */
static bool take_number(const char **at, u64 *number)
{
	const char *start = *at;

	for (*number = 0; **at >= '0' && **at <= '9'; ++*at)
		if (__builtin_mul_overflow(*number, 10, number) || __builtin_add_overflow(*number, (u64)(**at - '0'), number))
			return false;
	return *at > start && (!**at || is_space(**at));
}

static void skip_spaces(const char **at)
{
	while (is_space(**at))
		++*at;
}

/* Read up to count numbers that a row allows, and what separates them; how many there are, or -EINVAL. */
static s64 read_numbers(const char **text, const struct row *row, s64 count, u64 *numbers)
{
	s64 found = 0;

	skip_spaces(text);
	while (**text && found < count) {
		if (!take_number(text, &numbers[found]) || numbers[found] < row[found].least || numbers[found] > row[found].most)
			return -EINVAL;
		skip_spaces(text);
		found++;
	}
	return found ? found : -EINVAL;
}

/* What follows the last number is refused, but the numbers hold, as on Linux. */
s64 sysctl_set(struct ipc_tables *tables, const char *name, const char *value)
{
	u32 count, which = find(name, &count);
	u64 numbers[NUMBERS];
	s64 found;

	if (which == SYSCTLS)
		return -ENOENT;
	for (u32 i = 0; i < count; i++)
		numbers[i] = *value_of(tables, which + i);
	found = read_numbers(&value, &rows[which], count, numbers);
	if (found < 0 || (which == SYSCTL_LOCAL_PORT_FIRST && numbers[1] < numbers[0]))
		return -EINVAL;
	for (u32 i = 0; i < count; i++)
		*value_of(tables, which + i) = numbers[i];
	return *value ? -EINVAL : 0;
}
