// SPDX-License-Identifier: Apache-2.0
/* The userfaultfd of this process and of others: made, and registered for the pieces of RAM that are filled on demand. */
#include "ram/fill_struct.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

int fill_uffd(int device)
{
	int fd;

	if (device >= 0)
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int fill_device(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int fill_uffd_begin(int uffd)
{
	struct uffdio_api api = { .api = UFFD_API };

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return -errno;
	return api.features & UFFD_FEATURE_MISSING_SHMEM ? 0 : -EOPNOTSUPP;
}

/*
 * Do to a userfaultfd what `act` does, for each run of RAM whose faults it gets: RAM is mapped at base in the process that it belongs
 * to. In our own process (f->uffd) there is another file where RAM is laid.
 */
static int uffd_each(const struct fill *f, int uffd, uint64_t base, int (*act)(int uffd, struct uffdio_range range))
{
	int err = 0;

	for (uint32_t i = 0; i < f->pieces && !err; i++)
		for (uint64_t at = f->piece[i].start, end; at < f->piece[i].end && !err; at = end) {
			bool skip;

			end = f->piece[i].end;
			skip = uffd == f->uffd && is_laid(f, at, &end);
			if (!skip)
				err = act(uffd, (struct uffdio_range){ base + at, end - at });
		}
	return err;
}

static int range_register(int uffd, struct uffdio_range range)
{
	struct uffdio_register r = { .range = range, .mode = UFFDIO_REGISTER_MODE_MISSING };

	return ioctl(uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

static int range_unregister(int uffd, struct uffdio_range range)
{
	ioctl(uffd, UFFDIO_UNREGISTER, &range);
	return 0;
}

/* Ask for the page faults of RAM. */
int fill_uffd_register(const struct fill *f, int uffd, uint64_t base)
{
	return uffd_each(f, uffd, base, range_register);
}

/*
 * Stop that: the kernel fills pages with zeros from now on. Closing the descriptor is not enough, since a process that was
 * forked from this one may have it, too.
 */
void fill_uffd_unregister(const struct fill *f, int uffd, uint64_t base)
{
	(void)uffd_each(f, uffd, base, range_unregister);
}
