// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void rules_renumber(grpc_LinuxResources *resources, const grpc_LinuxDevice *old, dev_t number)
{
	for (size_t i = 0; i < resources->Devices_count; i++) {
		grpc_LinuxDeviceCgroup *rule = &resources->Devices[i];

		if (rule->Major == old->Major && rule->Minor == old->Minor &&
		    !strcmp(text_of(rule->Type), text_of(old->Type))) {
			rule->Major = major(number);
			rule->Minor = minor(number);
		}
	}
}

int devices_resolve(grpc_CreateContainerRequest *request, char what[256])
{
	grpc_Linux *spec = &request->OCI.Linux;

	for (size_t i = 0; i < request->devices_count; i++) {
		const grpc_Device *device = &request->devices[i];
		struct stat status;

		if (!text_of(device->container_path)[0])
			continue;
		if (stat(text_of(device->vm_path), &status)) {
			snprintf(what, 256, "device %.128s", text_of(device->vm_path));
			return -errno;
		}
		if (!S_ISBLK(status.st_mode) && !S_ISCHR(status.st_mode)) {
			snprintf(what, 256, "%.128s is no device", text_of(device->vm_path));
			return -EINVAL;
		}
		for (size_t k = 0; k < spec->Devices_count; k++) {
			grpc_LinuxDevice *node = &spec->Devices[k];

			if (strcmp(text_of(node->Path), device->container_path))
				continue;
			rules_renumber(&spec->Resources, node, status.st_rdev);
			node->Major = major(status.st_rdev);
			node->Minor = minor(status.st_rdev);
		}
	}
	return 0;
}
