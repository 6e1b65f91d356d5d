// SPDX-License-Identifier: Apache-2.0
#include "sysctl.h"

#include "oci.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool sysctl_is_shared(const grpc_Linux *spec, const char *name)
{
	static const char *const of_ipc[] = { "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue." };

	if (!strncmp(name, "net.", 4))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(of_ipc); i++) {
		if (!strncmp(name, of_ipc[i], strlen(of_ipc[i])))
			return !oci_has_namespace(spec, "ipc");
	}
	return false;
}

static int sysctl_write(const char *name, const char *value)
{
	char path[512];
	int length;

	/* As sysctl(8) has it, a slash stands for a dot in the name of an interface: net.ipv4.conf.eth0/1.forwarding */
	if (strstr(name, "..") || name[0] == '/' || strstr(name, "//"))
		return -EINVAL;
	length = snprintf(path, sizeof(path), PROC_SYS "/%s", name);
	if ((size_t)length >= sizeof(path))
		return -ENAMETOOLONG;
	for (char *at = path + sizeof(PROC_SYS); *at; at++)
		*at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
	return file_write(path, value, strlen(value));
}

int sysctls_apply(const grpc_Linux *spec, char what[256])
{
	for (size_t i = 0; i < spec->Sysctl_count; i++) {
		const char *name = text_of(spec->Sysctl[i].key);
		int error;

		if (!sysctl_is_shared(spec, name))
			continue;
		error = sysctl_write(name, text_of(spec->Sysctl[i].value));
		if (error) {
			snprintf(what, 256, "sysctl %.200s", name);
			return error;
		}
	}
	return 0;
}
