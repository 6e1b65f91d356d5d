// SPDX-License-Identifier: Apache-2.0
/* The state of the FPU that a task begins with. */
#include "core.h"

enum { CONTROL_AT = 0, MXCSR_AT = 24, COMPONENTS_AT = 512, COMPONENTS = 3 }; /* x87 and SSE */

void fpu_reset(void *fpu)
{
	bytes_zero(fpu, core.config->fpu_size);
	*(u16 *)((u8 *)fpu + CONTROL_AT) = 0x37f;
	*(u32 *)((u8 *)fpu + MXCSR_AT) = 0x1f80;
	*(u64 *)((u8 *)fpu + COMPONENTS_AT) = COMPONENTS;
}

/* Whole pages: XSAVE wants 64 bytes to be aligned, and no program's state is behind another's. */
void *fpu_new(void)
{
	u64 size = core.config->fpu_size;
	void *fpu = kmalloc(size < PAGE ? PAGE : size);

	if (fpu)
		fpu_reset(fpu);
	return fpu;
}
