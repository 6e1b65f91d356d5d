// SPDX-License-Identifier: Apache-2.0
/*
 * The thread that answers page faults of RAM. If it cannot fill a page, the process ends, as after any failed page-in.
 * The thread waits only for the disk with the template.
 */
#include "calls/calls.h"
#include "ram/fill_struct.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MESSAGES = 16 };

static void fill_die(int err, uint64_t at)
{
	char text[200];
	int n = snprintf(text, sizeof(text), "pyvmm: page %#llx of guest memory cannot be brought from its template (errno %d): %s\n",
			 (unsigned long long)at, err, "the machine ends");

	(void)!write(STDERR_FILENO, text, (size_t)n);
	for (;;)
		syscall(SYS_exit_group, 1);
}

/* ENOENT, ESRCH: the mapping or the process is going away, and with it the waiting thread. */
static void fill_must(int64_t result, uint64_t at)
{
	if (result < 0 && result != -ENOENT && result != -ESRCH)
		fill_die((int)-result, at);
}

static void first_add(struct fill_first *first, uint64_t at)
{
	if (first && first->count < FILL_FIRST) {
		first->page[first->count] = (uint32_t)(at / PAGE);
		__atomic_store_n(&first->count, first->count + 1, __ATOMIC_RELEASE);
	}
}

static void fault_answer(struct fill *f, int uffd, uint64_t base, uint64_t address)
{
	const uint64_t page = address & ~(uint64_t)(PAGE - 1), at = page - base;
	struct uffdio_range who = { page, PAGE };

	if (at < f->size) {
		f->faults++;
		first_add(f->first, at);
		if (is_laid_page(f, at)) {
			fill_must(fill_put_laid(f, uffd, page, at), at);
		} else if (has_page(f->done, at) || !template_page(f, at)) {
			/* The page was discarded, the template lacks it, or another fault has filled it. */
			set_bits(f->done, at, at + PAGE);
			fill_must(fill_put(f, at, at + PAGE, NULL), at);
		} else {
			const uint64_t start = at & ~(f->around - 1);
			const uint64_t end = f->size - start > f->around ? start + f->around : f->size;

			/*
			 * First fill the page that a thread waits for, then those around it, some of which may be
			 * present.
			 */
			fill_must(fill_missing(f, at, at + PAGE), at);
			fill_must(fill_missing(f, start, end), start);
		}
	}
	/* Always wake: the kernel does not if the fault came through another userfaultfd, or the page was present. */
	ioctl(uffd, UFFDIO_WAKE, &who);
}

static void faults_answer(struct fill *f, int uffd, uint64_t base)
{
	struct uffd_msg msg[MESSAGES];
	ssize_t got = read(uffd, msg, sizeof(msg));

	for (ssize_t i = 0; i < got / (ssize_t)sizeof(*msg); i++)
		if (msg[i].event == UFFD_EVENT_PAGEFAULT)
			fault_answer(f, uffd, base, msg[i].arg.pagefault.address);
}

static void *fill_main(void *arg)
{
	struct fill *f = arg;
	struct epoll_event event[8];
	eventfd_t count;
	bool stop = false;

	(void)seccomp_enter(SECCOMP_FILL, NULL);
	while (!stop) {
		int n = epoll_wait(f->epoll_fd, event, 8, -1);

		pthread_mutex_lock(&f->lock);
		for (int i = 0; i < n; i++) {
			const uint64_t what = event[i].data.u64;

			if (what == SOURCE_STOP)
				/* Read it here: the stopping thread may be a vCPU's, whose filter allows no read. */
				stop = eventfd_read(f->stop_fd, &count) == 0;
			else if (what == SOURCE_OWN)
				faults_answer(f, f->uffd, (uintptr_t)f->ram);
			else if (what >= SOURCE_CLIENT && f->client[what - SOURCE_CLIENT].uffd >= 0)
				faults_answer(f, f->client[what - SOURCE_CLIENT].uffd, f->client[what - SOURCE_CLIENT].base);
		}
		pthread_mutex_unlock(&f->lock);
	}
	return NULL;
}

int fill_watch(struct fill *f, int fd, uint64_t source_number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = source_number };

	return epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST ? -errno : 0;
}

void fill_record(struct fill *f, struct fill_first *first)
{
	pthread_mutex_lock(&f->lock);
	f->first = first;
	pthread_mutex_unlock(&f->lock);
}

int fill_start(struct fill *f)
{
	int err;

	fill_cut(f);
	err = fill_watch(f, f->stop_fd, SOURCE_STOP);
	if (!err)
		err = fill_watch(f, f->uffd, SOURCE_OWN);
	if (!err)
		err = fill_uffd_register(f, f->uffd, (uintptr_t)f->ram);
	return err ? err : fill_go_on(f);
}

int fill_go_on(struct fill *f)
{
	int err = 0;

	if (f->uffd >= 0 && !f->running) {
		err = thread_start(&f->thread, "ram-fill", fill_main, f);
		f->running = !err;
	}
	return err;
}

void fill_rest(struct fill *f)
{
	if (!f->running)
		return;
	(void)!eventfd_write(f->stop_fd, 1);
	pthread_join(f->thread, NULL);
	f->running = false;
}
