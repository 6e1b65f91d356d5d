// SPDX-License-Identifier: Apache-2.0
#include "sysctl.h"

#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool sysctl_is_shared(const char *name)
{
	static const char *const prefixes[] = { "net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue." };

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
			return true;
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

		if (!sysctl_is_shared(name))
			continue;
		error = sysctl_write(name, text_of(spec->Sysctl[i].value));
		if (error) {
			snprintf(what, 256, "sysctl %.200s", name);
			return error;
		}
	}
	return 0;
}
