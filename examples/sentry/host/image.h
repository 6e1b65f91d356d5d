/* SPDX-License-Identifier: Apache-2.0 */
/* Processes of a core that starts, or continues where another one has stopped. */
#ifndef SENTRY_IMAGE_H
#define SENTRY_IMAGE_H

#include "host.h"

/* -- image.c -- */

struct image;

u64 image_size(void);
void image_save(struct image *image);
void image_load(const struct image *image); /* this process is limited already: the image is not trusted */

/* -- nursery.c -- */

struct born {
	int ram, below, points; /* below: see below.h; -1. points: where this core reports what its program has reached; it does not block */
	bool moved; /* its connections to the host are gone */
	struct image *out; /* where this core saves itself if it is stopped */
	const struct image *in; /* what it continues; NULL: it starts */
};

/*
 * Make a process for each request on a socket, until that is closed: then this one ends. Returns in each new one, which
 * has standard streams and devices of its own.
 */
struct born nursery_serve(int sock);
void nursery_wait(void); /* until the host wants this core to go on: it was made in advance */

#endif
