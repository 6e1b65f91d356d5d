/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image of a process that has started Python and imported pyvmm, and has done nothing else yet.  warm_save.c writes
 * it, the program pyvmm-warm (warm_main.c) turns itself into that process, once: an image serves one start, so that no two
 * processes have the same addresses, canary, seed of hashes, or state of random numbers.
 *
 * A file: this header; then `nfiles` of struct warm_file, `nregions` of struct warm_region, `nsignals` of struct
 * warm_signal, and `ntext` bytes of strings; from `data` on the pages.
 */
#ifndef VMM_WARM_H
#define VMM_WARM_H

#include <stdint.h>

#define WARM_MAGIC UINT64_C(0x31306d7261777670) /* "pvwarm01" */
#define WARM_OPTION "-ISXpyvmm_warm="
#define WARM_OFF "PYVMM_WARM=0"
#define WARM_MAX_AGE (24 * 3600)

/* Beside the image, by what follows its name: whoever makes one holds a lock; none can be made here. */
#define WARM_LOCK ".lock"
#define WARM_NONE ".none"
#define WARM_NAME "/warm-" /* how its own begins */

enum { WARM_PAGE = 4096, WARM_MAX_TABLE = 1 << 20, WARM_BOOT_ID = 36, WARM_LOCALES = 3 };
enum { WARM_PYTHON = 0, WARM_SCRIPT = 1 }; /* of the files: those that are named on the command line */
/*
 * warm_region.source, where it is not the index of a file. Memory that the kernel may drop, or empties in a child, has
 * secrets of the process: it is not in the image, and is there empty afterwards.
 */
enum { WARM_ANONYMOUS = -1, WARM_IMAGE = -2, WARM_VDSO = -3, WARM_DROPPABLE = -4, WARM_WIPED = -5 };

/* A file that the process has mapped, or that something in its memory was made from. */
struct warm_file {
	uint64_t dev, ino, size;
	int64_t mtime, mtime_ns;
	uint32_t path, pad; /* offset in the text */
};

/* Later ones lie over earlier ones. */
struct warm_region {
	uint64_t start, end;
	uint64_t offset; /* in the file; of a part of the vDSO from the vDSO's start */
	uint32_t prot;
	int32_t source;
};

/* struct kernel_sigaction */
struct warm_signal {
	uint64_t number, handler, flags, restorer, mask;
};

/* What a call of a function preserves, and where it returns to. */
struct warm_registers {
	uint64_t rbx, rbp, r12, r13, r14, r15, rsp, rip;
};

/* Left for the process that wakes up. */
struct warm_mail {
	char **argv, **envp;
};

struct warm_header {
	uint64_t magic;
	uint64_t size; /* of the file, in bytes */
	uint64_t data; /* offset of the pages */
	int64_t made;  /* CLOCK_REALTIME, s */
	char boot_id[40];
	uint32_t nfiles, nregions, nsignals, ntext;
	uint32_t locale[WARM_LOCALES + 1]; /* offsets of the values of LC_ALL, LC_CTYPE, LANG in the text */
	struct warm_registers registers;
	uint64_t fs_base;
	uint64_t tid;                             /* address of what set_tid_address(2) was told */
	uint64_t robust_list, robust_size;        /* set_robust_list(2) */
	uint64_t rseq, rseq_size;                 /* rseq(2), or 0 */
	uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack; /* PR_SET_MM_MAP */
	uint64_t mail; /* address of a struct warm_mail */
};

#endif
