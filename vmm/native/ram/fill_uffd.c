// SPDX-License-Identifier: Apache-2.0
/*
 * Userfaultfds of this process and of others: creation, and registration for the pieces of RAM that are filled on
 * demand.
 */
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
 * Apply `act` to a userfaultfd for each range of RAM whose faults it receives. RAM is mapped at base in the process
 * that owns it. Our own process (f->uffd) maps another file over laid ranges, so these are skipped.
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

int fill_uffd_register(const struct fill *f, int uffd, uint64_t base)
{
	return uffd_each(f, uffd, base, range_register);
}

/*
 * Unregister; from now on the kernel fills pages with zeros. Closing the descriptor does not suffice, since a forked
 * process may hold it, too.
 */
void fill_uffd_unregister(const struct fill *f, int uffd, uint64_t base)
{
	(void)uffd_each(f, uffd, base, range_unregister);
}
