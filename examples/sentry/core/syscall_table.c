// SPDX-License-Identifier: Apache-2.0
/* Generated from pyvmm_sentry/syscalls.py: python -m pyvmm_sentry.syscalls --write */
#include "core.h"

s64 sys_arch_prctl(struct process *p, const u64 *args);
s64 sys_brk(struct process *p, const u64 *args);
s64 sys_clock_getres(struct process *p, const u64 *args);
s64 sys_clock_gettime(struct process *p, const u64 *args);
s64 sys_close(struct process *p, const u64 *args);
s64 sys_dup(struct process *p, const u64 *args);
s64 sys_dup2(struct process *p, const u64 *args);
s64 sys_dup3(struct process *p, const u64 *args);
s64 sys_exit_group(struct process *p, const u64 *args);
s64 sys_fcntl(struct process *p, const u64 *args);
s64 sys_fstat(struct process *p, const u64 *args);
s64 sys_getgid(struct process *p, const u64 *args);
s64 sys_getgroups(struct process *p, const u64 *args);
s64 sys_getpid(struct process *p, const u64 *args);
s64 sys_getrandom(struct process *p, const u64 *args);
s64 sys_getrlimit(struct process *p, const u64 *args);
s64 sys_gettimeofday(struct process *p, const u64 *args);
s64 sys_getuid(struct process *p, const u64 *args);
s64 sys_ioctl(struct process *p, const u64 *args);
s64 sys_kill(struct process *p, const u64 *args);
s64 sys_lseek(struct process *p, const u64 *args);
s64 sys_madvise(struct process *p, const u64 *args);
s64 sys_mmap(struct process *p, const u64 *args);
s64 sys_mprotect(struct process *p, const u64 *args);
s64 sys_munmap(struct process *p, const u64 *args);
s64 sys_newfstatat(struct process *p, const u64 *args);
s64 sys_open(struct process *p, const u64 *args);
s64 sys_openat(struct process *p, const u64 *args);
s64 sys_prctl(struct process *p, const u64 *args);
s64 sys_prlimit64(struct process *p, const u64 *args);
s64 sys_read(struct process *p, const u64 *args);
s64 sys_readlink(struct process *p, const u64 *args);
s64 sys_readlinkat(struct process *p, const u64 *args);
s64 sys_readv(struct process *p, const u64 *args);
s64 sys_rt_sigaction(struct process *p, const u64 *args);
s64 sys_rt_sigprocmask(struct process *p, const u64 *args);
s64 sys_set_robust_list(struct process *p, const u64 *args);
s64 sys_sigaltstack(struct process *p, const u64 *args);
s64 sys_tgkill(struct process *p, const u64 *args);
s64 sys_time(struct process *p, const u64 *args);
s64 sys_tkill(struct process *p, const u64 *args);
s64 sys_umask(struct process *p, const u64 *args);
s64 sys_uname(struct process *p, const u64 *args);
s64 sys_write(struct process *p, const u64 *args);
s64 sys_writev(struct process *p, const u64 *args);
s64 sys_zero(struct process *p, const u64 *args);

const struct syscall syscalls[SYSCALLS] = {
	[0] = { "read", sys_read, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[1] = { "write", sys_write, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[2] = { "open", sys_open, 3, { ARG_STRING, ARG_HEX, ARG_HEX } },
	[3] = { "close", sys_close, 1, { ARG_FD } },
	[5] = { "fstat", sys_fstat, 2, { ARG_FD, ARG_HEX } },
	[8] = { "lseek", sys_lseek, 3, { ARG_FD, ARG_INT, ARG_INT } },
	[9] = { "mmap", sys_mmap, 6, { ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX, ARG_FD, ARG_HEX } },
	[10] = { "mprotect", sys_mprotect, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[11] = { "munmap", sys_munmap, 2, { ARG_HEX, ARG_SIZE } },
	[12] = { "brk", sys_brk, 1, { ARG_HEX } },
	[13] = { "rt_sigaction", sys_rt_sigaction, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[14] = { "rt_sigprocmask", sys_rt_sigprocmask, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[16] = { "ioctl", sys_ioctl, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[19] = { "readv", sys_readv, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[20] = { "writev", sys_writev, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[24] = { "sched_yield", sys_zero, 0, { 0 } },
	[28] = { "madvise", sys_madvise, 3, { ARG_HEX, ARG_SIZE, ARG_INT } },
	[32] = { "dup", sys_dup, 1, { ARG_FD } },
	[33] = { "dup2", sys_dup2, 2, { ARG_FD, ARG_FD } },
	[39] = { "getpid", sys_getpid, 0, { 0 } },
	[60] = { "exit", sys_exit_group, 1, { ARG_INT } },
	[62] = { "kill", sys_kill, 2, { ARG_INT, ARG_INT } },
	[63] = { "uname", sys_uname, 1, { ARG_HEX } },
	[72] = { "fcntl", sys_fcntl, 3, { ARG_FD, ARG_INT, ARG_HEX } },
	[89] = { "readlink", sys_readlink, 3, { ARG_STRING, ARG_HEX, ARG_SIZE } },
	[95] = { "umask", sys_umask, 1, { ARG_HEX } },
	[96] = { "gettimeofday", sys_gettimeofday, 2, { ARG_HEX, ARG_HEX } },
	[97] = { "getrlimit", sys_getrlimit, 2, { ARG_INT, ARG_HEX } },
	[102] = { "getuid", sys_getuid, 0, { 0 } },
	[104] = { "getgid", sys_getgid, 0, { 0 } },
	[107] = { "geteuid", sys_getuid, 0, { 0 } },
	[108] = { "getegid", sys_getgid, 0, { 0 } },
	[110] = { "getppid", sys_zero, 0, { 0 } },
	[111] = { "getpgrp", sys_getpid, 0, { 0 } },
	[115] = { "getgroups", sys_getgroups, 2, { ARG_INT, ARG_HEX } },
	[131] = { "sigaltstack", sys_sigaltstack, 2, { ARG_HEX, ARG_HEX } },
	[157] = { "prctl", sys_prctl, 5, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[158] = { "arch_prctl", sys_arch_prctl, 2, { ARG_HEX, ARG_HEX } },
	[186] = { "gettid", sys_getpid, 0, { 0 } },
	[200] = { "tkill", sys_tkill, 2, { ARG_INT, ARG_INT } },
	[201] = { "time", sys_time, 1, { ARG_HEX } },
	[218] = { "set_tid_address", sys_getpid, 1, { ARG_HEX } },
	[228] = { "clock_gettime", sys_clock_gettime, 2, { ARG_INT, ARG_HEX } },
	[229] = { "clock_getres", sys_clock_getres, 2, { ARG_INT, ARG_HEX } },
	[231] = { "exit_group", sys_exit_group, 1, { ARG_INT } },
	[234] = { "tgkill", sys_tgkill, 3, { ARG_INT, ARG_INT, ARG_INT } },
	[257] = { "openat", sys_openat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[262] = { "newfstatat", sys_newfstatat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[267] = { "readlinkat", sys_readlinkat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[273] = { "set_robust_list", sys_set_robust_list, 2, { ARG_HEX, ARG_SIZE } },
	[292] = { "dup3", sys_dup3, 3, { ARG_FD, ARG_FD, ARG_HEX } },
	[302] = { "prlimit64", sys_prlimit64, 4, { ARG_INT, ARG_INT, ARG_HEX, ARG_HEX } },
	[318] = { "getrandom", sys_getrandom, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
};

const char *const errnos[] = {
	[1] = "EPERM",
	[2] = "ENOENT",
	[3] = "ESRCH",
	[4] = "EINTR",
	[5] = "EIO",
	[6] = "ENXIO",
	[7] = "E2BIG",
	[8] = "ENOEXEC",
	[9] = "EBADF",
	[10] = "ECHILD",
	[11] = "EAGAIN",
	[12] = "ENOMEM",
	[13] = "EACCES",
	[14] = "EFAULT",
	[15] = "ENOTBLK",
	[16] = "EBUSY",
	[17] = "EEXIST",
	[18] = "EXDEV",
	[19] = "ENODEV",
	[20] = "ENOTDIR",
	[21] = "EISDIR",
	[22] = "EINVAL",
	[23] = "ENFILE",
	[24] = "EMFILE",
	[25] = "ENOTTY",
	[26] = "ETXTBSY",
	[27] = "EFBIG",
	[28] = "ENOSPC",
	[29] = "ESPIPE",
	[30] = "EROFS",
	[31] = "EMLINK",
	[32] = "EPIPE",
	[33] = "EDOM",
	[34] = "ERANGE",
	[35] = "EDEADLOCK",
	[36] = "ENAMETOOLONG",
	[37] = "ENOLCK",
	[38] = "ENOSYS",
	[39] = "ENOTEMPTY",
	[40] = "ELOOP",
	[42] = "ENOMSG",
	[43] = "EIDRM",
	[44] = "ECHRNG",
	[45] = "EL2NSYNC",
	[46] = "EL3HLT",
	[47] = "EL3RST",
	[48] = "ELNRNG",
	[49] = "EUNATCH",
	[50] = "ENOCSI",
	[51] = "EL2HLT",
	[52] = "EBADE",
	[53] = "EBADR",
	[54] = "EXFULL",
	[55] = "ENOANO",
	[56] = "EBADRQC",
	[57] = "EBADSLT",
	[59] = "EBFONT",
	[60] = "ENOSTR",
	[61] = "ENODATA",
	[62] = "ETIME",
	[63] = "ENOSR",
	[64] = "ENONET",
	[65] = "ENOPKG",
	[66] = "EREMOTE",
	[67] = "ENOLINK",
	[68] = "EADV",
	[69] = "ESRMNT",
	[70] = "ECOMM",
	[71] = "EPROTO",
	[72] = "EMULTIHOP",
	[73] = "EDOTDOT",
	[74] = "EBADMSG",
	[75] = "EOVERFLOW",
	[76] = "ENOTUNIQ",
	[77] = "EBADFD",
	[78] = "EREMCHG",
	[79] = "ELIBACC",
	[80] = "ELIBBAD",
	[81] = "ELIBSCN",
	[82] = "ELIBMAX",
	[83] = "ELIBEXEC",
	[84] = "EILSEQ",
	[85] = "ERESTART",
	[86] = "ESTRPIPE",
	[87] = "EUSERS",
	[88] = "ENOTSOCK",
	[89] = "EDESTADDRREQ",
	[90] = "EMSGSIZE",
	[91] = "EPROTOTYPE",
	[92] = "ENOPROTOOPT",
	[93] = "EPROTONOSUPPORT",
	[94] = "ESOCKTNOSUPPORT",
	[95] = "ENOTSUP",
	[96] = "EPFNOSUPPORT",
	[97] = "EAFNOSUPPORT",
	[98] = "EADDRINUSE",
	[99] = "EADDRNOTAVAIL",
	[100] = "ENETDOWN",
	[101] = "ENETUNREACH",
	[102] = "ENETRESET",
	[103] = "ECONNABORTED",
	[104] = "ECONNRESET",
	[105] = "ENOBUFS",
	[106] = "EISCONN",
	[107] = "ENOTCONN",
	[108] = "ESHUTDOWN",
	[109] = "ETOOMANYREFS",
	[110] = "ETIMEDOUT",
	[111] = "ECONNREFUSED",
	[112] = "EHOSTDOWN",
	[113] = "EHOSTUNREACH",
	[114] = "EALREADY",
	[115] = "EINPROGRESS",
	[116] = "ESTALE",
	[117] = "EUCLEAN",
	[118] = "ENOTNAM",
	[119] = "ENAVAIL",
	[120] = "EISNAM",
	[121] = "EREMOTEIO",
	[122] = "EDQUOT",
	[123] = "ENOMEDIUM",
	[124] = "EMEDIUMTYPE",
	[125] = "ECANCELED",
	[126] = "ENOKEY",
	[127] = "EKEYEXPIRED",
	[128] = "EKEYREVOKED",
	[129] = "EKEYREJECTED",
	[130] = "EOWNERDEAD",
	[131] = "ENOTRECOVERABLE",
	[132] = "ERFKILL",
};
const u32 errno_count = ARRAY_SIZE(errnos);
