/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side of a virtqueue, in C, over RAM in a memfd: for tests, races and fuzzers of the native code.
 * It is a strict driver: it kicks only when the device asked for it, and waits for interrupts, so a lost one of either
 * kind ends in a failed wait.
 */
#ifndef TESTS_NATIVE_GUEST_H
#define TESTS_NATIVE_GUEST_H

#include "base/native.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

/* RAM: low memory, a hole, and one page-aligned piece above 4 GiB. */
#define LOW_SIZE 0x2000000ull
#define HIGH_BASE 0x100000000ull
#define HIGH_SIZE 0x100000ull
#define AT_DESC 0x10000ull
#define AT_AVAIL 0x20000ull
#define AT_USED 0x30000ull
#define AT_DATA 0x100000ull

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct guest {
	struct mem mem;
	struct irq irq;
	uint32_t isr;
	int ram_fd, kick_fd, event_fd;
	uint8_t *ram;
	struct ring_config config;
	struct ring *ring;
	struct desc *desc;
	uint16_t *avail, *used;
	uint16_t avail_idx; /* offered */
	uint16_t kicked;    /* avail.idx at the last decision to kick */
	uint16_t seen;      /* used entries taken */
	uint64_t kicks;
};

#define CHECK(what)                                                                            \
	do {                                                                                   \
		if (!(what)) {                                                                 \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);     \
			exit(1);                                                               \
		}                                                                              \
	} while (0)
#define CHECK_EQ(a, b)                                                                         \
	do {                                                                                   \
		long long a_ = (long long)(a), b_ = (long long)(b);                            \
		if (a_ != b_) {                                                                \
			fprintf(stderr, "%s:%d: %s is %lld, not %s (%lld)\n", __FILE__, __LINE__, #a, a_, #b, b_); \
			exit(1);                                                               \
		}                                                                              \
	} while (0)

/* size, flags of the ring; RAM is zero. */
void guest_open(struct guest *g, uint32_t size, uint32_t flags);
void guest_close(struct guest *g);
/* Another queue of the same guest, whose rings are where config says. Closed before it, by guest_close_queue(). */
void guest_open_queue(struct guest *g, const struct guest *of, const struct ring_config *config);
void guest_close_queue(struct guest *g);
/* ring_new() says this to each of n configurations. */
void guest_refuses(const struct guest *g, const struct ring_config *config, size_t n, int error);
/* Pointer to the RAM at gpa; must be there. */
void *guest_ptr(struct guest *g, uint64_t gpa);
/* Write descriptor i of the table. */
void guest_desc(struct guest *g, uint32_t i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
/* Make a head available. */
void guest_offer(struct guest *g, uint16_t head);
/* Kick if the device wants to know about what was offered since the last time. */
void guest_kick(struct guest *g);
/* Take the next used entry, waiting for an interrupt as long as it is not there. Returns the head. */
uint32_t guest_take(struct guest *g, uint32_t *len);
/* Wait until the device requests a kick for the next chain, which it does before it sleeps; with EVENT_IDX only. */
void guest_wait_idle(struct guest *g);
/* Wait up to 20 s for an eventfd and clear it; false on timeout. */
bool event_wait(int fd);
/* Wait up to 20 s until holds(arg); false on timeout. */
bool condition_wait(bool (*holds)(void *arg), void *arg);

/* How many entries a directory has. */
int count_dir(const char *path);

/* What the fuzzers of devices share: how input is taken, how a broken promise ends. */

#define require(what)                                                                          \
	do {                                                                                   \
		if (!(what)) {                                                                 \
			fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what);             \
			abort();                                                               \
		}                                                                              \
	} while (0)

/* The next bytes of the input, fewer at its end. */
static inline size_t input_take(const uint8_t **data, size_t *size, void *to, size_t want)
{
	size_t n = want < *size ? want : *size;

	memcpy(to, *data, n);
	*data += n;
	*size -= n;
	return n;
}

/* Tests of a program: the command line names one and its arguments, --list prints the names. */
struct test {
	const char *name;
	void (*run)(void);
};
int test_main(const struct test *tests, int argc, char **argv);

/* A host that fails: test_faults.c has the mechanism and the devices, test_faults_share.c has the share. */

/* Of this thread: how many calls from now one fails; 0: none. */
extern __thread uint32_t fails_at;
/* make() makes a thing and gives it back: 0, or the error with which it could not be made. Each of its calls fails once. */
void each_call_fails(int (*make)(void));
/* What never fails. */
int __real_open(const char *path, int flags, mode_t mode);
int __real_unshare(int flags);

void requests_of_a_share_fail(void);
void requests_of_a_share_with_handles_fail(void);
void requests_of_a_share_without_marks_fail(void);
void few_descriptors_and_handles(void);
void few_descriptors_and_marks(void);
void few_descriptors_and_names(void);
void a_limit_on_open_files(void);
void a_limit_on_nodes(void);
void many_nodes(void);
void programs_that_are_run_again(void);
void mounts_below_a_share(void);
void files_of_an_overlay(void);

#endif
