/* SPDX-License-Identifier: Apache-2.0 */
/* The ELF file that vdso.c and vdso.lds make, in the core's data. */
	.section .rodata
	.global vdso_start, vdso_end
	.balign 16
vdso_start:
	.incbin IMAGE
vdso_end:
	.section .note.GNU-stack, "", @progbits
