// SPDX-License-Identifier: Apache-2.0
/* The end of the machine: power-off, or a panic with registers and a backtrace. */
#include "kvm.h"

enum { ACPI_SLEEP = 0x600, ACPI_POWER_OFF = 1 << 5 | 5 << 2, I8042 = 0x64, I8042_RESET = 0xfe, PVPANIC = 0x505 };
enum { FRAMES = 32 };

extern u8 text_end[]; /* kernel.lds */
u64 __stack_chk_guard;

_Noreturn void power_off(void)
{
	static const struct {
		u64 zeros[2];
	} no_table;

	out(ACPI_SLEEP, ACPI_POWER_OFF);
	/* For machines with another way to power off, which end at a reset: that by a port, or by a triple fault. */
	out(I8042, I8042_RESET);
	for (;;)
		asm volatile("lidt %0; int3" : : "m"(no_table));
}

_Noreturn void refuse(const char *why)
{
	put_text("sentry: ");
	put_text(why);
	put_text("\n");
	power_off();
}

/* Where the functions return to that have called each other: addr2line names them. */
static void backtrace(u64 frame)
{
	put_text("sentry: called from");
	for (int i = 0; i < FRAMES && frame % 8 == 0 && frame >= DIRECT && frame < -4096ull; i++) {
		const u64 *at = (const u64 *)frame;

		if (at[1] < KERNEL || at[1] >= (u64)text_end || at[0] <= frame)
			break;
		put_hex(" ", at[1]);
		frame = at[0];
	}
	put_text("\n");
}

static _Noreturn void end(const char *why)
{
	put_text("sentry: panic: ");
	put_text(why);
	put_text("\n");
	out(PVPANIC, 1);
	power_off();
}

_Noreturn void panic(const char *why)
{
	backtrace((u64)__builtin_frame_address(0));
	end(why);
}

_Noreturn void panic_at(const struct trap *trap)
{
	static const char names[15][6] = { "r15 ", "r14 ", "r13 ", "r12 ", "rbp ", "rbx ", "r11 ", "r10 ",
					   "r9 ", "r8 ", "rax ", "rcx ", "rdx ", "rsi ", "rdi " };
	u64 address, root;

	asm volatile("mov %%cr2, %0; mov %%cr3, %1" : "=r"(address), "=r"(root));
	put_hex("sentry: exception ", trap->vector);
	put_hex(" error ", trap->error);
	put_hex("\nsentry: rip ", trap->rip);
	put_hex(" rsp ", trap->rsp);
	put_hex(" flags ", trap->flags);
	put_hex("\nsentry: address ", address);
	put_hex(" tables ", root);
	for (u32 i = 0; i < 15; i++) {
		put_text(i % 3 ? " " : "\nsentry: ");
		put_hex(names[i], (&trap->r15)[i]);
	}
	put_text("\n");
	backtrace(trap->rbp);
	end("a fault of the core");
}

_Noreturn void __stack_chk_fail(void)
{
	panic("a stack has overflowed");
}

bool asked_for(const char *line, const char *word)
{
	for (; *line && !(line[0] == '-' && line[1] == '-'); line++) {
		const char *rest = skip_prefix(line, word);

		if (rest && (*rest == ' ' || !*rest))
			return true;
	}
	return false;
}

/* Faults of the core that a tester can order, as Linux has them behind /proc/sysrq-trigger. */
void crash_if_ordered(const char *line)
{
	static u8 ret = 0xc3;
	volatile unsigned long much = 64;
	u8 buffer[8];
	volatile u8 *volatile nowhere = NULL;

	if (asked_for(line, "sentry.crash=null"))
		*nowhere = 0;
	if (asked_for(line, "sentry.crash=write-code"))
		*(volatile u8 *)(u64)panic_at = 0;
	if (asked_for(line, "sentry.crash=write-code-alias"))
		*(volatile u8 *)((u64)panic_at - KERNEL + DIRECT) = 0;
	if (asked_for(line, "sentry.crash=run-data"))
		((void (*)(void))(u64)&ret)();
	if (asked_for(line, "sentry.crash=run-data-alias"))
		((void (*)(void))((u64)&ret - KERNEL + DIRECT))();
	if (asked_for(line, "sentry.crash=stack"))
		memset(buffer, 0x41, much);
}
