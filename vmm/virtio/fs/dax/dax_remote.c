// SPDX-License-Identifier: Apache-2.0
/* The DAX window of another process: requests with a descriptor have that process make the mappings. */
#include "fs/dax/dax.h"
#include "base/native.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct dax {
	int sock;
	pthread_mutex_t lock; /* one request at a time */
};

struct dax *dax_remote_new(int sock)
{
	struct dax *dax = calloc(1, sizeof(*dax));

	if (!dax)
		return NULL;
	dax->sock = sock;
	pthread_mutex_init(&dax->lock, NULL);
	return dax;
}

static int dax_ask(struct dax *dax, const struct dax_msg *msg, int fd)
{
	int32_t answer;
	int err;

	pthread_mutex_lock(&dax->lock);
	err = fd_socket_send(dax->sock, msg, sizeof(*msg), &fd, 1);
	if (!err)
		err = fd_socket_recv(dax->sock, &answer, sizeof(answer), NULL, 0);
	pthread_mutex_unlock(&dax->lock);
	return err ? -EIO : answer;
}

int dax_map(struct dax *dax, uint64_t offset, uint64_t len, int fd, uint64_t from, bool writable)
{
	const struct dax_msg msg = { .op = DAX_MAP, .writable = writable, .offset = offset, .len = len, .from = from };

	return dax_ask(dax, &msg, fd);
}

int dax_unmap(struct dax *dax, uint64_t offset, uint64_t len)
{
	const struct dax_msg msg = { .op = DAX_UNMAP, .offset = offset, .len = len };

	return dax_ask(dax, &msg, -1);
}
