// SPDX-License-Identifier: Apache-2.0
/* Clients: other processes that map RAM. A thread of this process answers their faults. */
#include "ram/fill_struct.h"

#include <errno.h>
#include <sys/epoll.h>

int fill_client(struct fill *f, int uffd)
{
	int err = fill_uffd_begin(uffd);

	/* EINVAL: the descriptor was used before. */
	if (err && err != -EINVAL)
		return err;
	pthread_mutex_lock(&f->lock);
	for (err = 0; err < CLIENTS && f->client[err].uffd >= 0; err++)
		;
	if (err == CLIENTS) {
		err = -ENOSPC;
	} else {
		int bad = fill_watch(f, uffd, SOURCE_CLIENT + (uint64_t)err);

		if (bad)
			err = bad;
		else
			f->client[err] = (struct client){ .uffd = uffd };
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int fill_client_maps(struct fill *f, int client, uint64_t address)
{
	int uffd = -1;

	if (client < 0 || client >= CLIENTS || address % PAGE || address + f->size < address)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	f->client[client].base = address;
	uffd = f->client[client].uffd;
	pthread_mutex_unlock(&f->lock);
	/* Without the lock: this may wait for the client, and faults of others must not. */
	return uffd < 0 ? -EINVAL : fill_uffd_register(f, uffd, address);
}

void fill_client_close(struct fill *f, struct client *c)
{
	if (c->uffd < 0)
		return;
	epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, c->uffd, NULL);
	c->uffd = -1;
}

void fill_client_drop(struct fill *f, int client)
{
	if (client < 0 || client >= CLIENTS)
		return;
	pthread_mutex_lock(&f->lock);
	fill_client_close(f, &f->client[client]);
	pthread_mutex_unlock(&f->lock);
}
