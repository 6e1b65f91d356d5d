// SPDX-License-Identifier: Apache-2.0
/*
 * The KVM_RUN loop. It stays in C while the bus answers exits, and returns to Python for all others.
 *
 * Stopping: vcpu_kick() sets a flag, sets kvm_run->immediate_exit and signals the thread. The loop could test the flag
 * just before it is set and then enter KVM_RUN. immediate_exit makes that KVM_RUN return, without changes to the signal
 * mask. The signal interrupts a running KVM_RUN, or a blocking write() of the console.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "vcpu/bus.h"

#define KICK_SIGNAL (SIGRTMIN + 1)

struct vcpu {
	int fd;
	struct kvm_run *run;
	uint64_t run_size;
	struct bus *bus;
	/* Protects `thread` and `running`: a kick must never signal a thread that has left vcpu_run(). */
	pthread_mutex_t lock;
	pthread_t thread;
	bool running;
	bool stop;
	struct vcpu_stats stats;
};

static void kick_handler(int sig)
{
	(void)sig; /* the handler exists so that the signal interrupts system calls */
}

static void kick_install(void)
{
	struct sigaction action = { .sa_handler = kick_handler };

	sigemptyset(&action.sa_mask);
	sigaction(KICK_SIGNAL, &action, NULL);
}

struct vcpu *vcpu_new(int fd, void *kvm_run, uint64_t kvm_run_size, struct bus *bus)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct vcpu *vcpu;

	if (kvm_run_size < sizeof(struct kvm_run))
		return NULL;
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu)
		return NULL;
	pthread_once(&once, kick_install);
	if (pthread_mutex_init(&vcpu->lock, NULL)) {
		free(vcpu);
		return NULL;
	}
	vcpu->fd = fd;
	vcpu->run = kvm_run;
	vcpu->run_size = kvm_run_size;
	vcpu->bus = bus;
	return vcpu;
}

void vcpu_free(struct vcpu *vcpu)
{
	if (!vcpu)
		return;
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

static void exit_count(uint64_t *counters, uint32_t reason)
{
	uint64_t *counter = &counters[reason < VCPU_REASONS ? reason : VCPU_REASONS - 1];

	/* Only this thread writes; the store is atomic for readers in other threads. */
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/*
 * String I/O (ins/outs) is one exit with count accesses of size bytes. For Python's ranges, the whole exit goes to
 * Python.
 */
static int io_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t bytes = (uint64_t)run->io.size * run->io.count;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	int ret = BUS_DONE;

	if (run->io.data_offset > vcpu->run_size || bytes > vcpu->run_size - run->io.data_offset)
		return BUS_TO_PYTHON;
	for (uint32_t i = 0; i < run->io.count; i++) {
		ret = bus_access(vcpu->bus, BUS_PIO, run->io.port, data + (size_t)i * run->io.size, run->io.size,
				 run->io.direction == KVM_EXIT_IO_OUT);
		if (ret == BUS_TO_PYTHON)
			break;
	}
	return ret;
}

static int mmio_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int ret;

	if (run->mmio.len > sizeof(run->mmio.data))
		return BUS_TO_PYTHON;
	ret = bus_access(vcpu->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write);
	if (ret == BUS_UNCLAIMED &&
	    bus_window_mmio(vcpu->bus, run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write))
		return BUS_DONE;
	return ret;
}

static bool should_stop(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->stop, __ATOMIC_ACQUIRE);
}

static int run_loop(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t generation;
	int answered;

	if (!vcpu->stats.first_run_ns) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		vcpu->stats.first_run_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	}
	for (;;) {
		/*
		 * Call KVM_RUN even when stopping: it completes the I/O of the previous exit, then returns because of
		 * immediate_exit. Otherwise a restored machine would repeat the access.
		 */
		generation = bus_window_generation(vcpu->bus);
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			/* EFAULT: a page does not exist. In a window, this means that its file was truncated. */
			if (errno == EFAULT && bus_window_fault(vcpu->bus, generation))
				continue;
			/* EAGAIN: the signal interrupted a vCPU that waits for its start-up IPI. */
			if (errno != EINTR && errno != EAGAIN)
				return -errno;
			exit_count(vcpu->stats.c, KVM_EXIT_INTR);
			if (should_stop(vcpu))
				return -EINTR;
			continue;
		}
		if (run->exit_reason == KVM_EXIT_IO) {
			answered = io_exit(vcpu);
		} else if (run->exit_reason == KVM_EXIT_MMIO) {
			answered = mmio_exit(vcpu);
		} else {
			answered = BUS_TO_PYTHON;
		}
		if (answered == BUS_TO_PYTHON) {
			exit_count(vcpu->stats.python, run->exit_reason);
			return (int)run->exit_reason;
		}
		exit_count(vcpu->stats.c, run->exit_reason);
		if (answered == BUS_UNCLAIMED)
			__atomic_store_n(&vcpu->stats.unclaimed, vcpu->stats.unclaimed + 1, __ATOMIC_RELAXED);
	}
}

int vcpu_run(struct vcpu *vcpu)
{
	int ret;

	pthread_mutex_lock(&vcpu->lock);
	vcpu->thread = pthread_self();
	vcpu->running = true;
	pthread_mutex_unlock(&vcpu->lock);
	ret = run_loop(vcpu);
	pthread_mutex_lock(&vcpu->lock);
	vcpu->running = false;
	pthread_mutex_unlock(&vcpu->lock);
	return ret;
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->stop, true, __ATOMIC_RELEASE);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->running)
		pthread_kill(vcpu->thread, KICK_SIGNAL);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_resume(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&vcpu->stop, false, __ATOMIC_RELEASE);
}

void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *out)
{
	memcpy(out, &vcpu->stats, sizeof(*out));
}

/* struct kvm_pre_fault_memory of Linux 6.11. */
struct pre_fault {
	uint64_t gpa, size, flags, padding[5];
};

#define PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct pre_fault)
enum { PRE_FAULT_TRIES = 100 };

static int map_run(int fd, uint64_t gpa, uint64_t size)
{
	struct pre_fault wanted = { .gpa = gpa, .size = size };
	int tries = 0;

	while (wanted.size) {
		const uint64_t left = wanted.size;

		/* A signal or a concurrent change of memory ends the call early and updates `wanted` to the rest. */
		if (ioctl(fd, PRE_FAULT_MEMORY, &wanted) < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		tries = wanted.size < left ? 0 : tries + 1;
		if (tries == PRE_FAULT_TRIES)
			return -EAGAIN;
	}
	return 0;
}

int vcpu_map_pages(int fd, const struct mem *mem, const void *ram, const uint8_t *bits)
{
	for (uint32_t i = 0; i < mem->nregions; i++) {
		const struct mem_region *r = &mem->region[i];
		const uint64_t first = r->hva - (uintptr_t)ram, last = first + r->size;
		uint64_t at, end = first;

		while (mem_run(bits, last, &at, &end)) {
			int err = map_run(fd, r->gpa + at - first, end - at);

			if (err)
				return err;
		}
	}
	return 0;
}

static int ioctl_one(int fd, uint64_t request, void *argument)
{
	int result;

	do
		result = ioctl(fd, request, argument);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : result;
}

static int msrs_get(int fd, struct kvm_msrs *msrs)
{
	const uint32_t n = msrs->nmsrs;
	uint32_t done = 0, there = 0;

	while (done < n) {
		/* The header overlaps the value of the previous entry, which the guest does not have. */
		struct kvm_msrs *rest = (void *)((uint8_t *)msrs + done * sizeof(struct kvm_msr_entry));
		int got;

		rest->nmsrs = n - done;
		rest->pad = 0;
		got = ioctl_one(fd, KVM_GET_MSRS, rest);
		if (got < 0)
			return got;
		done += (uint32_t)got;
		if (done < n)
			msrs->entries[done++].index = UINT32_MAX;
	}
	for (uint32_t i = 0; i < n; i++)
		if (msrs->entries[i].index != UINT32_MAX)
			msrs->entries[there++] = msrs->entries[i];
	msrs->nmsrs = there;
	return (int)there;
}

void ioctl_all(void *room, void *calls, uint32_t n)
{
	for (struct ioctl_call *c = calls, *end = c + n; c < end; c++) {
		void *argument = (uint8_t *)room + c->argument;

		c->result = c->request == KVM_GET_MSRS ? msrs_get(c->fd, argument) : ioctl_one(c->fd, c->request, argument);
	}
}

/* ---- clocks --------------------------------------------------------------------------------------------------------- */

/* struct kvm_clock_data of Linux 5.16. */
struct clock_data {
	uint64_t clock;
	uint32_t flags, pad0;
	uint64_t realtime, host_tsc;
	uint32_t pad[4];
};

enum { CLOCK_HOST_TSC = 1 << 3 };
/* How often to read the clocks together, and the TSC interval that is short enough to stop. */
enum { CLOCK_TRIES = 16, CLOCK_CLOSE = 100000 };

static int tsc_get(int fd, uint64_t *tsc)
{
	struct {
		uint32_t n, pad;
		struct kvm_msr_entry tsc;
	} msrs = { .n = 1, .tsc.index = 0x10 };
	int got = ioctl_one(fd, KVM_GET_MSRS, &msrs);

	*tsc = msrs.tsc.data;
	return got == 1 ? 0 : got < 0 ? got : -EIO;
}

int clocks_get(int vm_fd, int vcpu_fd, uint64_t offset, struct vm_clocks *now)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < CLOCK_TRIES && best >= CLOCK_CLOSE; i++) {
		struct clock_data data = { 0 };
		uint64_t before, after;
		int err = tsc_get(vcpu_fd, &before);

		if (!err)
			err = ioctl_one(vm_fd, KVM_GET_CLOCK, &data);
		if (!err)
			err = tsc_get(vcpu_fd, &after);
		if (err)
			return err;
		after -= before;
		before -= offset;
		if (data.flags & CLOCK_HOST_TSC && data.host_tsc - before <= after) {
			/*
			 * KVM read both at one moment. A TSC outside the interval is an outer host's, whose ticks
			 * differ from the guest's.
			 */
			*now = (struct vm_clocks){ data.clock, data.host_tsc };
			return 0;
		}
		if (after < best) {
			best = after;
			*now = (struct vm_clocks){ data.clock, before + after / 2 };
		}
	}
	return 0;
}

int clocks_set(int vm_fd, int vcpu_fd, uint64_t offset, const struct vm_clocks *from, uint32_t khz, struct vm_clocks *now)
{
	struct clock_data data = { 0 };
	uint64_t tsc;
	int err = tsc_get(vcpu_fd, &tsc);

	if (err)
		return err;
	data.clock = from->clock + (uint64_t)((unsigned __int128)(tsc - offset - from->tsc) * 1000000 / khz);
	err = ioctl_one(vm_fd, KVM_SET_CLOCK, &data);
	return err ? err : clocks_get(vm_fd, vcpu_fd, offset, now);
}
