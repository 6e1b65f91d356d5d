// SPDX-License-Identifier: Apache-2.0
/* Limits the process of the core itself: from here on it runs programs, reads and writes its console, and ends. */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "below.h"
#include "device.h"
#include "filter.h"
#include "host.h"
#include "terminal.h"

enum { START = 4, STEPS = 5, PER_DEVICE = 3, MOST = 250 };

static unsigned short add_rule(struct sock_filter *code, const struct rule *rule)
{
	unsigned short count = 0;
	bool any = rule->argument < 0;

	code[count++] = (struct sock_filter)EQUAL(rule->number, 0, any ? 1 : 4);
	if (!any) {
		code[count++] = (struct sock_filter)LOAD(args[rule->argument]);
		code[count++] = (struct sock_filter)EQUAL(rule->value, 0, 1);
	}
	code[count++] = (struct sock_filter)ALLOW;
	if (!any)
		code[count++] = (struct sock_filter)LOAD(nr);
	return count;
}

static unsigned short add_device(struct sock_filter *code, const struct served *device)
{
	const struct rule rules[] = {
		{ SYS_read, 0, (u32)device->irq }, { SYS_write, 0, (u32)device->kicks[0] }, { SYS_write, 0, (u32)device->kicks[1] },
	};
	unsigned short count = 0;

	for (u32 i = 0; i < ARRAY_SIZE(rules); i++)
		count += add_rule(code + count, &rules[i]);
	return count;
}

void confine(void)
{
	const struct rule rules[] = {
		{ SYS_read, 0, 0 }, { SYS_write, 0, 1 }, { SYS_write, 0, 2 }, { SYS_ioctl, 1, TIOCGWINSZ },
		{ SYS_clock_gettime, -1, 0 }, { SYS_setitimer, -1, 0 }, { SYS_rt_sigreturn, -1, 0 },
		{ SYS_getrandom, -1, 0 }, { SYS_rt_sigaction, -1, 0 }, { SYS_kill, 0, (u32)getpid() },
		{ SYS_exit_group, -1, 0 }, { SYS_rt_sigprocmask, -1, 0 }, { SYS_ppoll, -1, 0 },
		{ SYS_madvise, 2, MADV_REMOVE },
	};
	struct sock_filter code[MOST] = { LOAD(arch), EQUAL(AUDIT_ARCH_X86_64, 1, 0), KILL, LOAD(nr) };
	const struct rule terminal = { SYS_write, 0, (u32)terminal_fd }, points = { SYS_write, 0, (u32)points_fd };
	const struct rule memory[] = {
		{ SYS_pwrite64, 0, (u32)below_ram() }, { SYS_mmap, 4, (u32)below_ram() }, { SYS_mmap, 4, (u32)below_fd() },
	};
	const struct rule *more;
	u32 more_count = platform_rules(&more);
	unsigned short count = START;

	if (START + (ARRAY_SIZE(rules) + ARRAY_SIZE(memory) + 2 + DEVICES * PER_DEVICE + more_count) * STEPS >= MOST)
		fail("the filter of system calls is too long");
	for (u32 i = 0; i < ARRAY_SIZE(rules); i++)
		count += add_rule(code + count, &rules[i]);
	if (terminal_fd >= 0)
		count += add_rule(code + count, &terminal);
	if (points_fd >= 0)
		count += add_rule(code + count, &points);
	if (below_fd() >= 0)
		for (u32 i = 0; i < ARRAY_SIZE(memory); i++)
			count += add_rule(code + count, &memory[i]);
	for (u32 i = 0; i < DEVICES; i++)
		if (device_is_there(i))
			count += add_device(code + count, &served[i]);
	for (u32 i = 0; i < more_count; i++)
		count += add_rule(code + count, &more[i]);
	code[count++] = (struct sock_filter)KILL;
	if (!filter_install(code, count))
		fail("the filter of system calls cannot be installed");
}
