/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only code of this project in the process of a program. It is copied to STUB.
 *
 * The host's kernel enters it with each signal, on the stack of this process, from which it computes R12: the start of
 * its slot. The stub reports the signal by a system call. The core answers with a number of calls to make, all of which it
 * checks again, and with the next step. The stub trusts no register and no memory that the program can write to: it may be
 * entered by a jump to any instruction.
 */
#include "stub.h"

#define CONTROL_AT(offset) (STUB_SIZE + (offset))(%r12)
#define FRAME_R8 40
#define FRAME_RSP 160
#define FRAME_RIP 168
#define FRAME_FPU 224
#define SIGURG 23
#define SYS_mmap 9
#define SYS_sendmsg 46
#define SYS_clone 56
#define SYS_sigaltstack 131
#define SYS_prctl 157
#define SYS_exit_group 231
#define SYS_close_range 436
#define ERROR $-4095

	.section .rodata
	.balign 64
	.globl stub_code, stub_enter, stub_end, after_report, after_call, after_fork, after_prctl, after_child
	.globl after_send, after_close, after_exit, after_altstack

/* A signal: RDI is its number, RSI its siginfo, RDX the context that it interrupted. */
stub_code:
	mov %rsp, %r12
	and $-SLOT_SIZE, %r12
	mov FRAME_RIP(%rdx), %rax
	lea stub_code(%rip), %rcx
	sub %rcx, %rax
	cmp $STUB_SIZE, %rax
	jb inside
report:
	rdfsbase %r10
	rdgsbase %r8
	mov $REPORT, %eax
	syscall
after_report:
	test %rax, %rax
	js die
	movzbl %al, %ebx
	movzbl %ah, %ebp
make_calls:
	lea CONTROL_AT(CONTROL_CALLS), %r15
next_call:
	test %ebx, %ebx
	jz calls_made
	mov (%r15), %rax
	mov 8(%r15), %rdi
	mov 16(%r15), %rsi
	mov 24(%r15), %rdx
	mov 32(%r15), %r10
	mov 40(%r15), %r8
	mov 48(%r15), %r9
	syscall
after_call:
	cmp ERROR, %rax
	jae die
	add $CALL_SIZE, %r15
	dec %ebx
	jmp next_call
calls_made:
	cmp $THEN_RUN, %ebp
	je run
	cmp $THEN_FORK, %ebp
	jae fork
report_nothing:
	xor %edi, %edi
	jmp report

/* Continue the program with what the core has written. */
run:
	mov CONTROL_AT(CONTROL_FS), %rax
	wrfsbase %rax
	mov CONTROL_AT(CONTROL_GS), %rax
	wrgsbase %rax
	mov CONTROL_AT(CONTROL_FPU), %rdi
	mov CONTROL_AT(CONTROL_FEATURES), %eax
	mov CONTROL_AT(CONTROL_FEATURES + 4), %edx
	xrstor64 (%rdi)
	lea CONTROL_AT(CONTROL_SIZE + STACK_SIZE), %rsp
	pushq $0x202 /* IRET fails with the flag NT, which a program can set */
	popfq
	lea CONTROL_AT(0), %rsp
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
	iretq

/* A signal while the stub runs. SIGURG, which stops a program, is too early or too late; others are the stub's faults. */
inside:
	cmp $SIGURG, %edi
	jne report
	mov %rdx, %rbx
	mov FRAME_FPU(%rbx), %rdi
	mov CONTROL_AT(CONTROL_FEATURES), %eax
	mov CONTROL_AT(CONTROL_FEATURES + 4), %edx
	xrstor64 (%rdi)
	/* RSP, RIP, flags, in this order, become a frame for IRET. */
	mov FRAME_RSP(%rbx), %rax
	mov FRAME_RIP(%rbx), %rcx
	mov %rcx, FRAME_RSP(%rbx)
	movq $0x33, FRAME_RSP + 8(%rbx)
	mov %rax, FRAME_RSP + 24(%rbx)
	movq $0x2b, FRAME_RSP + 32(%rbx)
	pushq $0x202
	popfq
	lea FRAME_R8(%rbx), %rsp
	pop %r8
	pop %r9
	pop %r10
	pop %r11
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rax
	pop %rcx
	iretq

/*
 * Another process, with a control block of its own before it touches any memory that this one writes to.  Or one more in
 * this address space, in another slot.
 */
fork:
	mov $SYS_clone, %eax
	mov $FORK_FLAGS, %edi
	mov $THREAD_FLAGS, %esi
	cmp $THEN_THREAD, %ebp
	cmove %esi, %edi
	xor %esi, %esi
	xor %edx, %edx
	xor %r10d, %r10d
	xor %r8d, %r8d
	mov CONTROL_AT(CONTROL_CHILD), %r9
	syscall
after_fork:
	mov %rax, %rsi
	test %rax, %rax
	jnz report_nothing
	mov $SYS_prctl, %eax
	mov $1, %edi /* PR_SET_PDEATHSIG */
	mov $9, %esi /* SIGKILL */
	syscall
after_prctl:
	test %rax, %rax
	jnz die
	cmp $THEN_THREAD, %ebp
	je thread
	mov $SYS_mmap, %eax
	lea CONTROL_AT(0), %rdi
	mov $CONTROL_SIZE, %esi
	mov $1, %edx	 /* PROT_READ */
	mov $0x11, %r10d /* MAP_SHARED | MAP_FIXED */
	mov $CONTROL_FD, %r8d
	syscall
after_child:
	cmp ERROR, %rax
	jae die
	mov CONTROL_AT(CONTROL_FIRST), %ebx
	xor %ebp, %ebp
	jmp make_calls
thread:
	mov CONTROL_AT(CONTROL_CHILD), %r12
	mov $SYS_sigaltstack, %eax
	lea CONTROL_AT(CONTROL_ALTSTACK), %rdi
	xor %esi, %esi
	syscall
after_altstack:
	mov %rax, %rsi
	test %rax, %rax
	jnz die
	jmp report_nothing

/* The start of the first process: RSI is a message with the filter's descriptor. */
stub_enter:
	lea stub_code(%rip), %r12
	mov $SYS_sendmsg, %eax
	mov $SOCKET_FD, %edi
	xor %edx, %edx
	syscall
after_send:
	mov $SYS_close_range, %eax
	mov $SOCKET_FD, %edi
	mov $-1, %esi
	xor %edx, %edx
	syscall
after_close:
	jmp report_nothing

die:
	mov $SYS_exit_group, %eax
	syscall
after_exit:
	ud2
stub_end:

	.section .note.GNU-stack, "", @progbits
