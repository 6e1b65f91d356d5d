// SPDX-License-Identifier: Apache-2.0
/*
 * Fills guest RAM from a template on first touch (userfaultfd(2)).
 *
 * RAM is an empty memfd. A missing page can be touched by a vCPU, another thread, the kernel for one of these, or
 * another process that maps RAM (fill_clients.c). The toucher waits until a thread (fill_faults.c) has copied the
 * template's page there. The template is a stack of layers (fill_layers.c).
 *
 * A bit in `done` means that the page was filled or discarded. If such a page is missing, it was discarded and is zero:
 * it must not be filled from the template a second time.
 *
 * Ranges that the guest only reads (its kernel's code) need no copy. fill_lay() maps the template's file there
 * privately, and all clones share these pages. A process that maps the memfd does not see the guest's later writes
 * there, nor the guest those of the process. Its first touch copies the guest's page of that moment. fill_together()
 * maps the memfd there again, for a caller that needs one memfd for all of RAM.
 */
#include "ram/fill_struct.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct fill *fill_new(void *ram, uint64_t size, int memfd, uint32_t around, int *err)
{
	struct fill *f = calloc(1, sizeof(*f));
	int device = fill_device();

	*err = -ENOMEM;
	if (f) {
		f->ram = ram;
		f->size = size;
		f->memfd = memfd;
		f->around = (uint64_t)around * PAGE;
		pthread_mutex_init(&f->lock, NULL);
		for (uint32_t i = 0; i < CLIENTS; i++)
			f->client[i].uffd = -1;
		f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		f->done = calloc(1, bitmap_size(f));
		f->uffd = fill_uffd(device);
		if (f->stop_fd < 0 || f->epoll_fd < 0)
			*err = -errno;
		else if (f->done)
			*err = f->uffd < 0 ? f->uffd : fill_uffd_begin(f->uffd);
	}
	if (device >= 0)
		close(device);
	if (!*err)
		return f;
	if (f)
		fill_free(f);
	return NULL;
}

int fill_again(struct fill *f, bool empty)
{
	int err;

	pthread_mutex_lock(&f->lock);
	fill_cut(f);
	err = fill_uffd_register(f, f->uffd, (uintptr_t)f->ram);
	if (!err && empty) {
		memset(f->done, 0, bitmap_size(f));
		f->faults = f->filled = 0;
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

static void descriptors_close(struct fill *f)
{
	for (uint32_t i = 0; i < CLIENTS; i++)
		fill_client_close(f, &f->client[i]);
	if (f->uffd >= 0)
		close(f->uffd);
	f->uffd = -1;
}

void fill_stop(struct fill *f)
{
	fill_rest(f);
	pthread_mutex_lock(&f->lock);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (f->client[i].uffd >= 0 && f->client[i].base)
			fill_uffd_unregister(f, f->client[i].uffd, f->client[i].base);
	if (f->uffd >= 0)
		fill_uffd_unregister(f, f->uffd, (uintptr_t)f->ram);
	descriptors_close(f);
	set_bits(f->done, 0, f->size);
	pthread_mutex_unlock(&f->lock);
}

void fill_free(struct fill *f)
{
	fill_rest(f);
	descriptors_close(f);
	while (f->layers)
		fill_layer_free(f, &f->layer[--f->layers]);
	free(f->layer);
	free(f->done);
	if (f->stop_fd >= 0)
		close(f->stop_fd);
	if (f->epoll_fd >= 0)
		close(f->epoll_fd);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
