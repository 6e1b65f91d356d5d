// SPDX-License-Identifier: Apache-2.0
/* Process 1 of the guest: mounts the usual file systems, then serves the host. */
#include "loop.h"
#include "net.h"
#include "relay.h"
#include "ttrpc.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAFE (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const struct {
	const char *type, *target;
	unsigned long flags;
	const char *data;
} mounts[] = {
	{ "proc", "/proc", SAFE, NULL },
	{ "sysfs", "/sys", SAFE, NULL },
	{ "devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755" },
	{ "cgroup2", CGROUP_DIR, SAFE, "nsdelegate" },
	/* Containers whose root is a disk or a tmpfs execute programs below it, so it is not mounted noexec. */
	{ "tmpfs", "/run", MS_NOSUID, "mode=0755" },
	{ "tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777" },
};

static void mount_all(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		/* The kernel has already mounted /dev unless the root is an initramfs. */
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].data) &&
		    errno != EBUSY)
			log_line("agent: mount %s: %s", mounts[i].target, strerror(errno));
	}
	directory_make(AGENT_DIR "/containers", 0700);
	directory_make(SHARE_DIR, 0755);
	directory_make("/run/kata-containers/sandbox", 0755);
}

/* Enable all controllers of the kernel for the containers' cgroups. */
static void cgroup_init(void)
{
	char list[512], line[1024], *save, *name;
	size_t used = 0;

	if (file_read(CGROUP_DIR "/cgroup.controllers", list, sizeof(list)) <= 0)
		return;
	for (name = strtok_r(list, " \n", &save); name; name = strtok_r(NULL, " \n", &save))
		used += snprintf(line + used, sizeof(line) - used, "+%s ", name);
	if (file_write(CGROUP_DIR "/cgroup.subtree_control", line, used))
		log_line("agent: not every cgroup controller can be used: %s", line);
}

/* Otherwise an idle machine wakes up twice a second to compact memory, which unshares pages of its clones. */
static void compaction_on_demand(void)
{
	file_write("/proc/sys/vm/compaction_proactiveness", "0", 1);
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		log_line("agent: lo: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static int vsock_listen(unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_ANY,
		.svm_port = port,
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, SOMAXCONN)) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int host_connect(unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = port,
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) && errno != EINPROGRESS) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int main(void)
{
	struct rlimit files = { 1048576, 1048576 };
	int error, fd;

	log_began();
	umask(022);
	mount_all();
	/* Without a console the kernel has not opened them, and a container's pipe would get one of these numbers. */
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	close(fd);
	cgroup_init();
	compaction_on_demand();
	loopback_up();
	net_spares_hide();
	generation_renew();
	setrlimit(RLIMIT_NOFILE, &files);
	error = loop_init();
	if (!error) {
		fd = vsock_listen(TTRPC_PORT);
		error = fd < 0 ? fd : ttrpc_serve(fd);
	}
	if (!error) {
		fd = vsock_listen(FORWARD_PORT);
		error = fd < 0 ? fd : forward_serve(fd, conn_is_host);
	}
	if (!error)
		error = loop_run();
	log_line("agent: cannot go on: %s", strerror(-error));
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
