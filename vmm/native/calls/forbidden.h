/* SPDX-License-Identifier: Apache-2.0 */
/* What no process with a machine makes that goes on serving its host (base/seccomp.h). No guard: the inside of an array. */

/* The host's kernel, clocks and memory. */
FAIL(init_module, EPERM, "load code into the kernel")
FAIL(finit_module, EPERM, "load code into the kernel")
FAIL(delete_module, EPERM, "take code out of the kernel")
FAIL(kexec_load, EPERM, "another kernel")
FAIL(kexec_file_load, EPERM, "another kernel")
FAIL(reboot, EPERM, "end the host")
FAIL(swapon, EPERM, "where the host's memory goes")
FAIL(swapoff, EPERM, "where the host's memory goes")
FAIL(settimeofday, EPERM, "the host's clock")
FAIL(clock_settime, EPERM, "the host's clock")
FAIL(adjtimex, EPERM, "the host's clock")
FAIL(clock_adjtime, EPERM, "the host's clock")
FAIL(iopl, EPERM, "ports of the host's devices")
FAIL(ioperm, EPERM, "ports of the host's devices")
FAIL(syslog, EPERM, "addresses in the kernel")
FAIL(acct, EPERM, "have the kernel write a file")
FAIL(quotactl, EPERM, "limits of file systems")

/* Other processes. */
FAIL(ptrace, EPERM, "steer another process")
FAIL(process_vm_readv, EPERM, "read another process")
FAIL(process_vm_writev, EPERM, "write another process")
FAIL(process_madvise, EPERM, "another process's memory")
FAIL(kcmp, EPERM, "what two processes share")
FAIL(pidfd_getfd, EPERM, "take another process's descriptors")
FAIL(migrate_pages, EPERM, "another process's memory")
FAIL(move_pages, EPERM, "another process's memory")

/* Parts of the kernel that attacks on it go by. */
FAIL(open_by_handle_at, EPERM, "open a file that no path leads to")
FAIL(fanotify_init, EPERM, "what happens to all files")
FAIL(perf_event_open, EPERM, "what the CPUs do")
FAIL(userfaultfd, EPERM, "make the kernel wait in the middle of something")
FAIL(add_key, EPERM, "keys of the kernel")
FAIL(request_key, EPERM, "keys of the kernel")
FAIL(keyctl, EPERM, "keys of the kernel")
FAIL(modify_ldt, EPERM, "segments of another time")
FAIL(uselib, EPERM, "of another time")
FAIL(vhangup, EPERM, "of another time")
