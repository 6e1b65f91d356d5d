/* SPDX-License-Identifier: Apache-2.0 */
/* System calls that fail in a process that has a machine and is not jailed (seccomp_forbid()). The inside of an array. */

/* The host's kernel, clocks and memory. */
FAIL(init_module, EPERM, "load code into the kernel")
FAIL(finit_module, EPERM, "load code into the kernel")
FAIL(delete_module, EPERM, "unload code from the kernel")
FAIL(kexec_load, EPERM, "replace the kernel")
FAIL(kexec_file_load, EPERM, "replace the kernel")
FAIL(reboot, EPERM, "reboot the host")
FAIL(swapon, EPERM, "change where the host's memory is swapped to")
FAIL(swapoff, EPERM, "change where the host's memory is swapped to")
FAIL(settimeofday, EPERM, "set the host's clock")
FAIL(clock_settime, EPERM, "set the host's clock")
FAIL(adjtimex, EPERM, "set the host's clock")
FAIL(clock_adjtime, EPERM, "set the host's clock")
FAIL(iopl, EPERM, "access I/O ports of the host")
FAIL(ioperm, EPERM, "access I/O ports of the host")
FAIL(syslog, EPERM, "read addresses from the kernel's log")
FAIL(acct, EPERM, "have the kernel write a file")
FAIL(quotactl, EPERM, "change quotas of file systems")

/* Other processes. */
FAIL(ptrace, EPERM, "trace another process")
FAIL(process_vm_readv, EPERM, "read the memory of another process")
FAIL(process_vm_writev, EPERM, "write the memory of another process")
FAIL(process_madvise, EPERM, "discard memory of another process")
FAIL(kcmp, EPERM, "compare the kernel's objects of two processes")
FAIL(pidfd_getfd, EPERM, "take descriptors of another process")
FAIL(migrate_pages, EPERM, "move memory of another process")
FAIL(move_pages, EPERM, "move memory of another process")

/* Parts of the kernel that exploits often use. */
FAIL(open_by_handle_at, EPERM, "open a file without a path")
FAIL(fanotify_init, EPERM, "watch all files")
FAIL(perf_event_open, EPERM, "measure what the CPUs do")
FAIL(userfaultfd, EPERM, "stop the kernel in the middle of a copy")
FAIL(add_key, EPERM, "use the kernel's keyrings")
FAIL(request_key, EPERM, "use the kernel's keyrings")
FAIL(keyctl, EPERM, "use the kernel's keyrings")
FAIL(modify_ldt, EPERM, "make segments; obsolete")
FAIL(uselib, EPERM, "load a library; obsolete")
FAIL(vhangup, EPERM, "hang up the terminal; obsolete")
