/* SPDX-License-Identifier: Apache-2.0 */
/* Where a machine enters the kernel (PVH), and where the CPU goes between the program and the core. */

#define KERNEL 0xffffffff80000000
#define PHYSICAL(symbol) (symbol - KERNEL)

/* Places in struct regs and struct cpu. */
#define R15 0
#define R14 8
#define R13 16
#define R12 24
#define RBP 32
#define RBX 40
#define R11 48
#define RAX 56
#define RCX 64
#define RDI 72
#define RSI 80
#define RDX 88
#define R10 96
#define R8 104
#define R9 112
#define RIP 120
#define FLAGS 128
#define RSP 136
/* The first fields of struct cpu, to which GS leads in the core. */
#define CORE_RSP %gs:0
#define PROGRAM_RSP %gs:8
#define PROGRAM_REGS %gs:16
#define STOPPED_FOR %gs:24
#define EXCEPTION_ERROR %gs:28

#define USER_DATA 0x2b
#define USER_CODE 0x33
#define TF_RF 0x10100
#define LOST 256 /* beside the numbers of exceptions and interrupts; see below */
#define TRAMPOLINE 0x8000

	.section .note.pvh, "a", @note
	.long 4, 8, 18
	.asciz "Xen"
	.quad PHYSICAL(start)

	.macro set_segments
	lgdt gdt_high(%rip)
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ds
	mov %eax, %es
	mov $0x10, %eax
	mov %eax, %ss
	.endm

	.section .text.start, "ax"
	.code32
	.global start
start:
	cli
	cld
	mov $PHYSICAL(kernel_stack_end), %esp
	mov %ebx, PHYSICAL(start_info)
	/* 4 GiB of physical memory in pages of 2 MiB: at 0 for now, and where the core sees all memory. */
	mov $PHYSICAL(directory), %edi
	mov $0x83, %eax
	mov $2048, %ecx
1:	mov %eax, (%edi)
	movl $0, 4(%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 1b
	mov $PHYSICAL(directory) + 3, %eax
	mov $PHYSICAL(low_pointers), %edi
	mov $4, %ecx
2:	mov %eax, (%edi)
	add $4096, %eax
	add $8, %edi
	loop 2b
	movl $PHYSICAL(directory) + 3, PHYSICAL(high_pointers) + 510 * 8
	movl $PHYSICAL(low_pointers) + 3, PHYSICAL(kernel_tables)
	movl $PHYSICAL(low_pointers) + 3, PHYSICAL(kernel_tables) + 256 * 8
	movl $PHYSICAL(high_pointers) + 3, PHYSICAL(kernel_tables) + 511 * 8
	mov $0x620, %eax		/* CR4: PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $PHYSICAL(kernel_tables), %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx		/* EFER: SCE, LME, NXE */
	rdmsr
	or $0x901, %eax
	wrmsr
	mov $0x80050033, %eax		/* CR0: PG, AM, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	lgdt PHYSICAL(gdt_low)
	ljmp $8, $PHYSICAL(long_mode)
	.code64
long_mode:
	movabs $high, %rax
	jmp *%rax
high:
	set_segments
	mov $kernel_stack_end, %rsp
	xor %ebp, %ebp
	call kernel_main
	ud2

	/* What functions of C need not keep, and RBX. */
	.macro load
	mov RBX(%rdi), %rbx
	mov R10(%rdi), %r10
	mov R9(%rdi), %r9
	mov R8(%rdi), %r8
	mov RAX(%rdi), %rax
	mov RDX(%rdi), %rdx
	mov RSI(%rdi), %rsi
	.endm

	.text
/* void enter_program(struct regs *regs): returns when the program stops. */
	.global enter_program
enter_program:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, CORE_RSP
	mov %rdi, PROGRAM_REGS
	mov R15(%rdi), %r15
	mov R14(%rdi), %r14
	mov R13(%rdi), %r13
	mov R12(%rdi), %r12
	mov RBP(%rdi), %rbp
	load
	mov RIP(%rdi), %rcx
	mov FLAGS(%rdi), %r11
	/*
	 * As SYSCALL left them: SYSRET takes a fraction of IRET.  The caller has checked that RIP is canonical.  SYSRET
	 * cannot load RF, and CPUs differ in when TF takes effect.
	 */
	cmp RCX(%rdi), %rcx
	jne 1f
	cmp R11(%rdi), %r11
	jne 1f
	test $TF_RF, %r11d
	jnz 1f
	mov RSP(%rdi), %rsp
	mov RDI(%rdi), %rdi
	swapgs
	sysretq
1:	pushq $USER_DATA
	pushq RSP(%rdi)
	pushq %r11
	pushq $USER_CODE
	pushq %rcx
	mov R11(%rdi), %r11
	mov RCX(%rdi), %rcx
	mov RDI(%rdi), %rdi
	swapgs
	iretq

	.macro save
	mov %r15, R15(%rdi)
	mov %r14, R14(%rdi)
	mov %r13, R13(%rdi)
	mov %r12, R12(%rdi)
	mov %rbp, RBP(%rdi)
	mov %rbx, RBX(%rdi)
	mov %r11, R11(%rdi)
	mov %r10, R10(%rdi)
	mov %r9, R9(%rdi)
	mov %r8, R8(%rdi)
	mov %rax, RAX(%rdi)
	mov %rcx, RCX(%rdi)
	mov %rdx, RDX(%rdi)
	mov %rsi, RSI(%rdi)
	.endm

/* Interrupts are off, and FMASK keeps the trap flag out. A debugger finds whoever called enter_program as the caller. */
	.cfi_sections .debug_frame
	.global syscall_entry
syscall_entry:
	.cfi_startproc simple
	swapgs
	mov %rsp, PROGRAM_RSP
	mov CORE_RSP, %rsp
	push %rdi
	mov PROGRAM_REGS, %rdi
	save
	pop RDI(%rdi)
	mov %rcx, RIP(%rdi)
	mov %r11, FLAGS(%rdi)
	mov PROGRAM_RSP, %rax
	mov %rax, RSP(%rdi)
	mov %rdi, %rbx
	sub $8, %rsp
	.cfi_def_cfa %rsp, 64
	.cfi_offset %rip, -8
	.cfi_offset %rbx, -16
	.cfi_offset %rbp, -24
	.cfi_offset %r12, -32
	.cfi_offset %r13, -40
	.cfi_offset %r14, -48
	.cfi_offset %r15, -56
	call kernel_call
	add $8, %rsp
	mov %rbx, %rdi
	test %al, %al
	jz leave_call
	load
	mov RCX(%rdi), %rcx
	mov R11(%rdi), %r11
	mov RSP(%rdi), %rsp
	mov RDI(%rdi), %rdi
	swapgs
	sysretq
	.cfi_endproc

/* On the stack: vector, error code, RIP, CS, flags, RSP, SS. */
exception:
	pushq $2		/* an exception leaves most flags as the program had them */
	popfq
	testb $3, 24(%rsp)
	jz 1f
	swapgs
	push %rdi
	mov PROGRAM_REGS, %rdi
	save
	pop RDI(%rdi)
	pop %rax
	mov %eax, STOPPED_FOR
	pop %rax
	mov %eax, EXCEPTION_ERROR
	pop RIP(%rdi)
	add $8, %rsp
	pop FLAGS(%rdi)
	pop RSP(%rdi)
leave_program:
	mov CORE_RSP, %rsp
leave_call: /* from the stack of the task, which can be on another CPU now */
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	cld
	ret
/*
 * A program got a debug exception by INT1, and at the first instruction of the handler the one that a load of SS had
 * delayed: on the same stack, where the frame of the program was.  Its registers are here, but nobody knows where it was.
 */
2:	swapgs
	push %rdi
	mov PROGRAM_REGS, %rdi
	save
	pop RDI(%rdi)
	movl $LOST, STOPPED_FOR
	jmp leave_program
/* Of the core itself: an interrupt while it waits for one, or a fault. */
1:	cmpq $debug_stub, 16(%rsp)
	je 2b
	push %rdi
	push %rsi
	push %rdx
	push %rcx
	push %rax
	push %r8
	push %r9
	push %r10
	push %r11
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call kernel_trap
	mov %rbx, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rax
	pop %rcx
	pop %rdx
	pop %rsi
	pop %rdi
	add $16, %rsp
	iretq

	.altmacro
	.macro stub vector
	.align 16
	.if !((\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17) || (\vector == 21) || (\vector == 29) || (\vector == 30))
	pushq $0
	.endif
	pushq $\vector
	jmp exception
	.endm

/* Each 16 bytes from the one before it. */
	.align 16
	.global vector_stubs
vector_stubs:
	.set debug_stub, vector_stubs + 16
	.set number, 0
	.rept 256
	stub %number
	.set number, number + 1
	.endr

/*
 * Where another CPU starts, in real mode: copied to the page TRAMPOLINE, in which there is nothing else meanwhile.  Its
 * first page tables map that page where it is.
 */
#define HERE(label) (TRAMPOLINE + label - trampoline)
	.code16
	.global trampoline, trampoline_end
trampoline:
	cli
	cld
	xor %eax, %eax
	mov %eax, %ds
	lgdtl HERE(ap_table)
	mov $0x33, %eax			/* CR0: NE, ET, MP, PE */
	mov %eax, %cr0
	ljmpl $0x18, $HERE(ap_protected)
	.code32
ap_protected:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov $0x620, %eax		/* as at the start of the first CPU */
	mov %eax, %cr4
	mov $PHYSICAL(ap_tables), %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax
	wrmsr
	mov $0x80050033, %eax
	mov %eax, %cr0
	ljmp $8, $HERE(ap_long_mode)
	.code64
ap_long_mode:
	movabs $ap_high, %rax
	jmp *%rax
	.align 8
ap_gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 0x08: code of 64 bits */
	.quad 0x00cf93000000ffff	/* 0x10: data */
	.quad 0x00cf9b000000ffff	/* 0x18: code of 32 bits */
ap_table:
	.word ap_table - ap_gdt - 1
	.long HERE(ap_gdt)
trampoline_end:

ap_high:
	set_segments
	mov starting_stack(%rip), %rsp
	mov $PHYSICAL(kernel_tables), %eax
	mov %rax, %cr3
	xor %ebp, %ebp
	call cpu_main
	ud2

	.data
	.align 16
	.global gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 0x08: code of the core */
	.quad 0x00cf93000000ffff	/* 0x10: its data */
	.quad 0, 0
	.quad 0x00cff3000000ffff	/* 0x28: data of programs, numbered as in Linux */
	.quad 0x00affb000000ffff	/* 0x30: their code */
	.quad 0
	.quad 0, 0			/* 0x40: the TSS of a CPU, in its own copy */
gdt_end:
gdt_low:
	.word gdt_end - gdt - 1
	.long PHYSICAL(gdt)
gdt_high:
	.word gdt_end - gdt - 1
	.quad gdt

	.bss
	.align 4096
	.global directory, high_directory, high_pointers, kernel_tables, ap_tables
directory:
	.skip 4 * 4096
high_directory:
	.skip 4096
low_pointers:
	.skip 4096
high_pointers:
	.skip 4096
kernel_tables:
	.skip 4096
ap_tables:				/* and two below them */
	.skip 3 * 4096
kernel_stack:
	.skip 128 * 1024
kernel_stack_end:
	.global start_info, starting_stack
start_info:
	.quad 0
starting_stack:				/* of the CPU that starts */
	.quad 0
