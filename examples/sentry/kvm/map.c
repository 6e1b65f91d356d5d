// SPDX-License-Identifier: Apache-2.0
/* The kernel's own page tables: nothing in them is both writable and executable. */
#include "kvm.h"

enum { PRESENT = 1, WRITE = 2, UNCACHED = 0x10, LARGE = 0x80, GLOBAL = 0x100, ENTRIES = 512, GLOBAL_PAGES = 1 << 7 };
#define NO_EXEC (1ull << 63)
#define LARGE_PAGE (2ull << 20)
#define DEVICES 0xc0000000ull

extern u64 directory[4 * ENTRIES], high_directory[ENTRIES], high_pointers[ENTRIES], kernel_tables[ENTRIES]; /* entry.S */
extern u8 text_start[], data_start[], kernel_end[];						     /* kernel.lds */

static void flush_all(void)
{
	u64 cr4;

	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" : : "r"(cr4 & ~(u64)GLOBAL_PAGES) : "memory");
	asm volatile("mov %0, %%cr3" : : "r"((u64)kernel_tables - KERNEL) : "memory");
	asm volatile("mov %0, %%cr4" : : "r"(cr4 | GLOBAL_PAGES) : "memory");
}

/*
 * Where the core sees all memory, it executes none of it, and cannot write its own code.  At the kernel's own addresses
 * there are code, and data.  The start's map of low addresses goes.
 */
void protect_kernel(void)
{
	u64 text = (u64)text_start - KERNEL, data = (u64)data_start - KERNEL, end = (u64)kernel_end - KERNEL;

	for (u64 at = text; at < end; at += LARGE_PAGE)
		high_directory[at / LARGE_PAGE] = at | PRESENT | LARGE | GLOBAL | (at < data ? 0 : WRITE | NO_EXEC);
	high_pointers[ENTRIES - 2] = ((u64)high_directory - KERNEL) | PRESENT | WRITE;
	kernel_tables[0] = 0;
	flush_all(); /* up to here, the kernel's own addresses were those of all memory */
	for (u64 i = 0; i < 4 * ENTRIES; i++) {
		u64 at = i * LARGE_PAGE;

		directory[i] = at | PRESENT | LARGE | GLOBAL | NO_EXEC | (at >= DEVICES ? UNCACHED : 0) |
			       (at >= text && at < data ? 0 : WRITE);
	}
	flush_all();
}
