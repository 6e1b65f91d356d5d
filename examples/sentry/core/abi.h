/* SPDX-License-Identifier: Apache-2.0 */
/* Linux's binary interface on x86-64, as far as the core uses it. The core includes no header of the host. */
#ifndef SENTRY_ABI_H
#define SENTRY_ABI_H

#include "types.h"

/* The machine, as filters and tracers see it. */
#define AUDIT_X86_64 0xc000003eu

enum {
	PAGE = 4096,
	PATH_MAX = 4096,
	NAME_MAX = 255,
	IOV_MAX = 1024,
	SIGNALS = 64,
};

enum {
	RLIMIT_FSIZE = 1, RLIMIT_STACK = 3, RLIMIT_CORE, RLIMIT_NPROC = 6, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_MSGQUEUE = 12,
	RLIMIT_NICE, RLIMIT_RTPRIO, RLIMITS = 16,
};

/* A read or write moves at most so many bytes, as in Linux. */
#define MAX_RW_COUNT 0x7ffff000ull

enum {
	EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8, EBADF = 9,
	ECHILD = 10, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, ENOTBLK = 15, EBUSY = 16, EEXIST = 17,
	EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOTTY = 25,
	ETXTBSY = 26, EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EMLINK = 31, EPIPE = 32, EDOM = 33,
	ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40,
	ENOMSG = 42, EIDRM = 43, ECHRNG = 44, EL2NSYNC = 45, EL3HLT = 46, EL3RST = 47, ELNRNG = 48, EUNATCH = 49,
	ENOCSI = 50, EL2HLT = 51, EBADE = 52, EBADR = 53, EXFULL = 54, ENOANO = 55, EBADRQC = 56, EBADSLT = 57,
	EBFONT = 59, ENOSTR = 60, ENODATA = 61, ETIME = 62, ENOSR = 63, ENONET = 64, ENOPKG = 65, EREMOTE = 66,
	ENOLINK = 67, EADV = 68, ESRMNT = 69, ECOMM = 70, EPROTO = 71, EMULTIHOP = 72, EDOTDOT = 73, EBADMSG = 74,
	EOVERFLOW = 75, ENOTUNIQ = 76, EBADFD = 77, EREMCHG = 78, ELIBACC = 79, ELIBBAD = 80, ELIBSCN = 81,
	ELIBMAX = 82, ELIBEXEC = 83, EILSEQ = 84, ERESTART = 85, ESTRPIPE = 86, EUSERS = 87, ENOTSOCK = 88,
	EDESTADDRREQ = 89, EMSGSIZE = 90, EPROTOTYPE = 91, ENOPROTOOPT = 92, EPROTONOSUPPORT = 93,
	ESOCKTNOSUPPORT = 94, EOPNOTSUPP = 95, EPFNOSUPPORT = 96, EAFNOSUPPORT = 97, EADDRINUSE = 98,
	EADDRNOTAVAIL = 99, ENETDOWN = 100, ENETUNREACH = 101, ENETRESET = 102, ECONNABORTED = 103, ECONNRESET = 104,
	ENOBUFS = 105, EISCONN = 106, ENOTCONN = 107, ESHUTDOWN = 108, ETOOMANYREFS = 109, ETIMEDOUT = 110,
	ECONNREFUSED = 111, EHOSTDOWN = 112, EHOSTUNREACH = 113, EALREADY = 114, EINPROGRESS = 115, ESTALE = 116,
	EUCLEAN = 117, ENOTNAM = 118, ENAVAIL = 119, EISNAM = 120, EREMOTEIO = 121, EDQUOT = 122, ENOMEDIUM = 123,
	EMEDIUMTYPE = 124, ECANCELED = 125, ENOKEY = 126, EKEYEXPIRED = 127, EKEYREVOKED = 128, EKEYREJECTED = 129,
	EOWNERDEAD = 130, ENOTRECOVERABLE = 131, ERFKILL = 132,
	/* Of the core: make the system call again. Not if a handler runs: one without SA_RESTART; -; any; any. */
	ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516,
};

enum {
	CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_PIDFD = 0x1000,
	CLONE_PTRACE = 0x2000, CLONE_VFORK = 0x4000, CLONE_PARENT = 0x8000, CLONE_THREAD = 0x10000, CLONE_NEWNS = 0x20000, CLONE_SYSVSEM = 0x40000,
	CLONE_SETTLS = 0x80000, CLONE_PARENT_SETTID = 0x100000, CLONE_CHILD_CLEARTID = 0x200000, CLONE_DETACHED = 0x400000,
	CLONE_UNTRACED = 0x800000,
	CLONE_CHILD_SETTID = 0x1000000, CLONE_NAMESPACES = 0x7e020000,
	CLONE_NEWTIME = 0x80, /* of unshare; clone has the signal there */
};
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#define CLONE_INTO_CGROUP 0x200000000ull

enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, PROT_SEM = 8 };
enum { PROT_GROWSDOWN = 0x01000000, PROT_GROWSUP = 0x02000000 };
enum {
	MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_TYPE = 15, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_GROWSDOWN = 0x100, MAP_LOCKED = 0x2000,
	MAP_FIXED_NOREPLACE = 0x100000,
};
enum { MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2, MREMAP_DONTUNMAP = 4 };

enum {
	SIGHUP = 1, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE,
	SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM,
	SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS,
};
enum { SS_ONSTACK = 1, SS_DISABLE = 2, MINSIGSTKSZ = 2048 };
#define SS_AUTODISARM (1u << 31)
#define SIG_DFL 0ull
#define SIG_IGN 1ull

enum { O_ACCMODE = 3, O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0x40, O_APPEND = 0x400, O_NONBLOCK = 0x800 };
enum { O_DIRECTORY = 0x10000, O_CLOEXEC = 0x80000, O_LARGEFILE = 0x8000 };
enum { AT_FDCWD = -100 };
enum { AT_SYMLINK_NOFOLLOW = 0x100, AT_NO_AUTOMOUNT = 0x800, AT_EMPTY_PATH = 0x1000, AT_STATX_SYNC = 0x6000 };
enum { S_IFCHR = 0020000, S_IFIFO = 0010000 };

struct iovec {
	u64 base, size;
};

struct timespec {
	s64 seconds, nanoseconds;
};

struct rlimit {
	u64 current, maximum;
};

struct sigaction {
	u64 handler, flags, restorer, mask;
};
#define SA_KNOWN 0xdc000807u /* UAPI_SA_FLAGS in Linux's include/linux/signal_types.h */

enum { SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 4 };

struct sigevent {
	u64 value;
	s32 signal, notify, tid, pad[11];
};

struct sigaltstack {
	u64 stack;
	s32 flags, pad; /* of a task, pad has the flags as the program gave them */
	u64 size;
};

struct stat {
	u64 device, inode, links;
	u32 mode, user, group, pad;
	u64 special;
	s64 size, block_size, blocks;
	struct timespec accessed, modified, changed;
	s64 unused[3];
};

struct utsname {
	char system[65], node[65], release[65], version[65], machine[65], domain[65];
};

struct winsize {
	u16 rows, columns, width, height;
};

_Static_assert(sizeof(struct sigevent) == 64, "as the kernel has it");
_Static_assert(sizeof(struct stat) == 144, "as the kernel has it");
_Static_assert(sizeof(struct utsname) == 390, "as the kernel has it");

struct elf_header {
	u8 magic[4], class, order, version, abi, pad[8];
	u16 type, machine;
	u32 version2;
	u64 entry, segments_at, sections_at;
	u32 flags;
	u16 size, segment_size, segment_count, section_size, section_count, names;
};

struct elf_segment {
	u32 type, flags;
	u64 offset, address, physical, file_size, size, align;
};

_Static_assert(sizeof(struct elf_header) == 64, "as in the specification");
_Static_assert(sizeof(struct elf_segment) == 56, "as in the specification");

#endif
