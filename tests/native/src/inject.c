// SPDX-License-Identifier: Apache-2.0
/* What an attacker who has taken a worker's thread over does, for tests: any system call, from that thread. */
#include "dataplane/worker.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct worker_ops ops;
static long call[7];
static int block;

static int run(struct worker *w)
{
	sigset_t all;

	(void)w;
	sigfillset(&all);
	if (block)
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	syscall(call[0], call[1], call[2], call[3], call[4], call[5], call[6]);
	return 0;
}

void block_signals_first(void)
{
	block = 1;
}

/* To be said again: a worker that just looked for work, and found none, has heard it and sleeps. */
void kick(struct worker *w)
{
	eventfd_write(w->kick_fd, 1);
}

void inject(struct worker *w, const long *numbers)
{
	for (int i = 0; i < 7; i++)
		call[i] = numbers[i];
	ops = *w->ops;
	ops.run = run;
	__atomic_store_n(&w->ops, &ops, __ATOMIC_SEQ_CST);
	kick(w);
}
