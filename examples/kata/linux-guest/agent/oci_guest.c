// SPDX-License-Identifier: Apache-2.0
/* The parts of a container's spec that depend on the guest: device numbers, shared sysctls, paths. */
#include "oci.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
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

/* ---- sysctl ---- */

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

	/* As in sysctl(8), a slash stands for a dot in an interface name: net.ipv4.conf.eth0/1.forwarding */
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

/* ---- config ---- */

#define WORD_SIZE 512

static int namespace_fill(struct json *json, const struct config_source *source, char *word)
{
	char *id = strchr(word, ':'), *path;
	pid_t pid;

	if (!id || strspn(word, "abcdefghijklmnopqrstuvwxyz") != (size_t)(id - word))
		return -EINVAL;
	*id++ = '\0';
	pid = source->find(id);
	if (!pid)
		return -ESRCH;
	path = xasprintf("/proc/%d/ns/%s", pid, word);
	json_string(json, NULL, path);
	free(path);
	return 0;
}

/* Half of a disk's number: "major:SERIAL" or "minor:SERIAL". */
static int number_fill(struct json *json, const struct config_source *source, const char *word)
{
	dev_t number;
	int error = source->disk(strchr(word, ':') + 1, &number);

	if (!error)
		json_uint(json, NULL, word[1] == 'a' ? major(number) : minor(number));
	return error;
}

static int word_fill(struct json *json, const struct config_source *source, char *word)
{
	static const char namespace[] = "ns:";

	if (!strncmp(word, namespace, strlen(namespace)))
		return namespace_fill(json, source, word + strlen(namespace));
	if (!strncmp(word, "major:", 6) || !strncmp(word, "minor:", 6))
		return source->disk ? number_fill(json, source, word) : -EINVAL;
	if (!strcmp(word, "devices")) {
		oci_write_devices_below(json, "/dev");
		return 0;
	}
	if (!strcmp(word, "sandbox:pid") && source->pid_namespace) {
		json_string(json, NULL, source->pid_namespace);
		return 0;
	}
	return -EINVAL;
}

int config_fill(struct json *json, const struct config_source *source, char what[256])
{
	char *start = xasprintf("\"@%s:", source->mark), word[WORD_SIZE];
	const char *text = source->text, *at, *end;
	int error = 0;

	while (!error && source->mark[0] && (at = strstr(text, start))) {
		json_raw(json, text, at - text);
		at += strlen(start);
		end = strchr(at, '"');
		if (!end || (size_t)(end - at) >= sizeof(word)) {
			error = -EINVAL;
			break;
		}
		memcpy(word, at, end - at);
		word[end - at] = '\0';
		error = word_fill(json, source, word);
		if (error)
			snprintf(what, 256, "config.json: %.200s", word);
		text = end + 1;
	}
	json_raw(json, text, strlen(text));
	free(start);
	return error;
}
