// SPDX-License-Identifier: Apache-2.0
/* What only goes wrong with something else going on: depth, several queues, a guest that rewrites its ring, a stop. */
#include "disk.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

static struct disk d;

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/*
 * Random reads and writes, as many in flight as there are slots of three descriptors, each slot in its own part of the
 * disk, against a model of what the disk must hold. A lost kick or interrupt ends in guest_take()'s timeout.
 */
static void depth(struct disk *on, uint32_t slots, uint32_t rounds, uint64_t base, uint32_t seed)
{
	enum { PART = 8, SLOTS = 64 };
	struct guest *g = &on->g;
	uint32_t model[SLOTS][PART] = { 0 }, sector[SLOTS], written[SLOTS];
	struct request r[SLOTS];
	uint32_t offered = 0, taken = 0;
	bool out[SLOTS] = { false };

	while (taken < rounds) {
		uint32_t burst = next_random(&seed) % slots + 1;

		while (offered < rounds && offered - taken < slots && burst--) {
			/* Heads come back in any order: take a slot that is not out. */
			uint32_t i = 0;

			while (out[i])
				i++;
			CHECK(i < slots);
			out[i] = true;
			sector[i] = next_random(&seed) % PART;
			written[i] = next_random(&seed) % 2 ? next_random(&seed) | 1 : 0;
			r[i] = (struct request){ written[i] ? T_OUT : T_IN, base + i * PART + sector[i],
						 AT_DATA + 4096ull * i, 512, !written[i] };
			if (written[i])
				fill(guest_ptr(g, r[i].data), 512, written[i]);
			disk_request(on, (uint16_t)(3 * i), r[i]);
			guest_offer(g, (uint16_t)(3 * i));
			offered++;
		}
		guest_kick(g);
		for (burst = next_random(&seed) % (offered - taken) + 1; burst--; taken++) {
			uint32_t head = guest_take(g, NULL), i = head / 3;
			const void *data = guest_ptr(g, r[i].data);

			out[i] = false;
			CHECK_EQ(*disk_status(on, (uint16_t)head), S_OK);
			if (written[i])
				model[i][sector[i]] = written[i];
			else if (model[i][sector[i]])
				CHECK(filled(data, 512, model[i][sector[i]]));
			else
				CHECK(all_zero(data, 512));
		}
	}
}

static void deep(uint32_t ring_flags, uint32_t rounds)
{
	disk_make(&d, 256, ring_flags, 2048, 0);
	disk_start(&d);
	/* Enough that both indices wrap in the longer ones. */
	depth(&d, 64, rounds, 0, 12345);
	depth(&d, 1, rounds / 20, 1024, 54321);
	CHECK_EQ(worker_error(d.worker), 0);
	disk_close(&d);
}

static void depth_with_event_idx(void)
{
	deep(RING_EVENT_IDX, 70000);
}

static void depth_with_flags(void)
{
	deep(0, 20000);
}

static void depth_direct(void)
{
	disk_make(&d, 256, RING_EVENT_IDX, 2048, O_DIRECT);
	d.config.flags |= BLK_DIRECT;
	d.config.alignment = 4096;
	disk_start(&d);
	depth(&d, 32, 2000, 0, 99);
	disk_close(&d);
}

/* Copies of large reads may go on side by side. */
static void large_reads(void)
{
	enum { READS = 8, SIZE = 1 << 20 };

	disk_make(&d, 64, RING_EVENT_IDX, 1 << 14, 0);
	disk_start(&d);
	for (uint32_t i = 0; i < READS; i++) {
		fill(guest_ptr(&d.g, AT_DATA), SIZE, i * 1000);
		CHECK_EQ(disk_rw(&d, T_OUT, i * (SIZE / 512), AT_DATA, SIZE), S_OK);
	}
	for (uint32_t round = 0; round < 20; round++) {
		for (uint16_t i = 0; i < READS; i++) {
			disk_request(&d, 3 * i, (struct request){ T_IN, i * (SIZE / 512u), AT_DATA + SIZE * i, SIZE, true });
			guest_offer(&d.g, 3 * i);
		}
		guest_kick(&d.g);
		for (uint32_t n = 0; n < READS; n++) {
			uint32_t used, i = guest_take(&d.g, &used) / 3;

			CHECK_EQ(used, SIZE + 1);
			CHECK_EQ(*disk_status(&d, (uint16_t)(3 * i)), S_OK);
			CHECK(filled(guest_ptr(&d.g, AT_DATA + SIZE * i), SIZE, i * 1000));
			memset(guest_ptr(&d.g, AT_DATA + SIZE * i), 0, SIZE);
		}
	}
	CHECK_EQ(disk_stats(&d).read_bytes, 20ull * READS * SIZE);
	disk_close(&d);
}

static void *upper_half(void *arg)
{
	depth(arg, 32, 10000, 1024, 7);
	return NULL;
}

/* Two queues on one disk, here with a guest each, each in its half. */
static void two_queues(void)
{
	static struct disk other;
	pthread_t thread;
	int err;

	disk_make(&d, 128, RING_EVENT_IDX, 2048, 0);
	disk_make(&other, 128, RING_EVENT_IDX, 2048, 0);
	disk_start(&d);
	other.worker = blk_start(d.blk, other.g.ring, other.g.kick_fd, &other.g.irq, other.g.event_fd, &err);
	CHECK_EQ(err, 0);
	CHECK(pthread_create(&thread, NULL, upper_half, &other) == 0);
	depth(&d, 32, 10000, 0, 8);
	pthread_join(thread, NULL);
	CHECK_EQ(disk_stats(&d).reads + disk_stats(&d).writes, 20000);
	CHECK_EQ(disk_stats(&d).errors, 0);
	disk_close(&other);
	disk_close(&d);
}

/* Bytes outside of the disk and of RAM must not move, whatever the guest writes into its ring while the device works. */
static volatile bool done;

static void *mutate(void *arg)
{
	struct disk *disk = arg;
	uint32_t seed = 42;
	volatile uint8_t *desc = (volatile uint8_t *)disk->g.desc;

	while (!done) {
		uint32_t x = next_random(&seed);

		/* Mostly bytes of descriptors and headers, sometimes of the available ring. */
		if (x % 16)
			desc[(x >> 8) % (48 * 16)] = (uint8_t)(x >> 24);
		else
			((volatile uint8_t *)disk->g.avail)[4 + (x >> 8) % 32] = (uint8_t)(x >> 24);
	}
	return NULL;
}

static void descriptors_change_while_read(void)
{
	uint8_t guard[4096];
	pthread_t thread;
	int broken = 0;

	for (int round = 0; round < 300; round++) {
		disk_make(&d, 16, RING_EVENT_IDX | RING_INDIRECT, 64, 0);
		memset(guard, 0x5a, sizeof(guard));
		CHECK(ftruncate(d.fd, 64 * 512 + 4096) == 0);
		disk_poke(&d, 64 * 512, guard, sizeof(guard));
		disk_start(&d);
		done = false;
		CHECK(pthread_create(&thread, NULL, mutate, &d) == 0);
		for (int i = 0; i < 60 && !worker_error(d.worker); i++) {
			for (uint16_t k = 0; k < 5; k++) {
				disk_request(&d, 3 * k, (struct request){ i % 3 ? T_OUT : T_IN, k, AT_DATA + 4096u * k, 4096, i % 3 == 0 });
				guest_offer(&d.g, 3 * k);
			}
			eventfd_write(d.g.kick_fd, 1);
		}
		done = true;
		pthread_join(thread, NULL);
		worker_stop(d.worker);
		broken += worker_error(d.worker) != 0;
		disk_peek(&d, 64 * 512, guard, sizeof(guard));
		for (size_t i = 0; i < sizeof(guard); i++)
			CHECK_EQ(guard[i], 0x5a);
		disk_close(&d);
	}
	CHECK(broken > 0);
}

static void stop_with_io_in_flight(void)
{
	uint8_t *before = malloc(LOW_SIZE);
	struct ring_config saved;
	uint32_t answered;

	for (int round = 0; round < 20; round++) {
		disk_make(&d, 64, RING_EVENT_IDX, 1 << 15, round % 2 ? O_DIRECT : 0);
		if (round % 2) {
			d.config.flags |= BLK_DIRECT;
			d.config.alignment = 512;
		}
		disk_start(&d);
		for (uint16_t i = 0; i < 20; i++) {
			disk_request(&d, 3 * i, (struct request){ i % 2 ? T_OUT : T_IN, 2048u * (i / 2), AT_DATA + 0x100000ull * i,
								   1 << 20, i % 2 == 0 });
			guest_offer(&d.g, 3 * i);
		}
		guest_kick(&d.g);
		if (round % 4 > 1)
			usleep(200); /* some of them are done, others are not */
		worker_stop(d.worker);
		/* Nothing moves any more, and nothing that was taken is left unanswered. */
		memcpy(before, d.g.ram, LOW_SIZE);
		CHECK_EQ(ring_save(d.g.ring, &saved), 0);
		CHECK_EQ((uint16_t)saved.next_used, d.g.used[1]);
		usleep(2000); /* nothing may be written */
		CHECK(!memcmp(before, d.g.ram, LOW_SIZE));
		answered = 0;
		for (uint16_t i = 0; i < 20; i++) {
			answered += *disk_status(&d, 3 * i) != S_NONE;
			CHECK(*disk_status(&d, 3 * i) == S_NONE || *disk_status(&d, 3 * i) == S_OK);
		}
		CHECK_EQ(answered, (uint16_t)(d.g.used[1] - d.g.seen));
		worker_stop(d.worker);
		disk_close(&d);
	}
	free(before);
}

static bool has_threads(void *most)
{
	return count_dir("/proc/self/task") <= *(int *)most;
}

static void nothing_is_left_behind(void)
{
	int fds = 0, threads = 0;

	for (int round = 0; round < 50; round++) {
		disk_open(&d);
		CHECK_EQ(disk_rw(&d, T_OUT, 0, AT_DATA, 4096), S_OK);
		disk_close(&d);
		if (round == 2) {
			fds = count_dir("/proc/self/fd");
			threads = count_dir("/proc/self/task");
		}
	}
	CHECK_EQ(count_dir("/proc/self/fd"), fds);
	/* A thread that was joined is listed for a moment more, and so are those of io_uring. */
	CHECK(condition_wait(has_threads, &threads));
}

static const struct worker_ops *real;
static bool held;

/* Held between the worker's look at the order to stop and its look at what has completed. */
static int run_held(struct worker *w)
{
	__atomic_store_n(&held, true, __ATOMIC_RELEASE);
	while (!worker_stopping(w))
		usleep(1000);
	usleep(20000); /* the other thread goes to sleep meanwhile, which nothing shows */
	/* It does not look before it sleeps, as on a host with one CPU. */
	w->poll_max_ns = 0;
	return real->run(w);
}

/* The wake-up for it is one of the completions: it is taken with them, and then there is none. */
static void stop_while_completions_are_taken(void)
{
	struct worker_ops ops;

	disk_open(&d);
	real = d.worker->ops;
	ops = *real;
	ops.run = run_held;
	__atomic_store_n(&d.worker->ops, &ops, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&held, __ATOMIC_ACQUIRE)) {
		eventfd_write(d.g.kick_fd, 1);
		usleep(1000); /* the step of the loop */
	}
	worker_stop(d.worker);
	disk_close(&d);
}

/* A worker that nobody kicked, and one that is stopped twice. */
static void stop_idle(void)
{
	disk_open(&d);
	worker_stop(d.worker);
	worker_stop(d.worker);
	CHECK_EQ(worker_error(d.worker), 0);
	disk_close(&d);
}

/* What the guest offered before the worker was there, without a kick, is done. */
static void offered_before_the_start(void)
{
	disk_make(&d, 16, RING_EVENT_IDX, 2048, 0);
	disk_request(&d, 0, (struct request){ T_OUT, 0, AT_DATA, 512, false });
	guest_offer(&d.g, 0);
	if (!strcmp(disk_engine(), "uring"))
		setenv("ENGINE", "auto", 1);
	disk_start(&d);
	guest_take(&d.g, NULL);
	CHECK_EQ(*disk_status(&d, 0), S_OK);
	disk_close(&d);
}

#define T(name) { #name, name }
struct neighbour {
	pthread_t thread;
	struct blk *blk;
	uint32_t first;
};

/* Writes every other sector, flushes, and reads them all again. */
static void *write_every_other(void *arg)
{
	struct neighbour *n = arg;
	struct blk_queue q = { .blk = n->blk };
	uint8_t data[512], back[512];

	for (uint32_t sector = n->first; sector < 2048; sector += 2) {
		struct iovec iov = { .iov_base = data, .iov_len = 512 };
		struct blk_req r = { .op = BLK_OP_WRITE, .off = sector * 512, .len = 512, .iov = &iov, .niov = 1 };

		fill(data, 512, sector + 1);
		CHECK_EQ(blk_overlay_do(&q, &r), 0);
		if (sector % 64 == n->first) {
			r.op = BLK_OP_FLUSH;
			CHECK_EQ(blk_overlay_do(&q, &r), 0);
		}
	}
	for (uint32_t sector = n->first; sector < 2048; sector += 2) {
		struct iovec iov = { .iov_base = back, .iov_len = 512 };
		struct blk_req r = { .op = BLK_OP_READ, .off = sector * 512, .len = 512, .iov = &iov, .niov = 1 };

		CHECK_EQ(blk_overlay_do(&q, &r), 0);
		CHECK(filled(back, 512, sector + 1));
	}
	return NULL;
}

/* Two queues write the sectors of each block of an overlay at the same time: none copies the image's over the other's. */
static void overlay_blocks_are_shared(void)
{
	struct neighbour n[2];
	char path[300];
	int err, fd;

	disk_make(&d, 16, 0, 2048, 0);
	snprintf(path, sizeof(path), "%s-overlay-XXXXXX", d.path);
	fd = mkstemp(path);
	CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, 8192 + 2048 * 512) == 0);
	d.config.overlay = blk_overlay_new(fd, 4096, 8192, 2048 * 512, &err);
	CHECK_EQ(err, 0);
	d.blk = blk_new(&d.config, &err);
	CHECK_EQ(err, 0);
	for (uint32_t i = 0; i < 2; i++) {
		n[i] = (struct neighbour){ .blk = d.blk, .first = i };
		CHECK(pthread_create(&n[i].thread, NULL, write_every_other, &n[i]) == 0);
	}
	for (uint32_t i = 0; i < 2; i++)
		CHECK(pthread_join(n[i].thread, NULL) == 0);
	blk_free(d.blk);
	blk_overlay_free(d.config.overlay);
	guest_close(&d.g);
	close(d.fd);
	close(fd);
	unlink(d.path);
}

static const struct test tests[] = {
	T(depth_with_event_idx), T(depth_with_flags), T(depth_direct), T(large_reads), T(two_queues), T(descriptors_change_while_read),
	T(stop_with_io_in_flight), T(nothing_is_left_behind), T(stop_idle),
	T(stop_while_completions_are_taken), T(offered_before_the_start), T(overlay_blocks_are_shared), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
