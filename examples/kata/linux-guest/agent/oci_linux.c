// SPDX-License-Identifier: Apache-2.0
#include "oci.h"

#include "util.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void write_memory(struct json *json, const grpc_LinuxMemory *memory)
{
	json_open(json, "memory", '{');
	if (memory->Limit)
		json_int(json, "limit", memory->Limit);
	if (memory->Reservation)
		json_int(json, "reservation", memory->Reservation);
	if (memory->Swap)
		json_int(json, "swap", memory->Swap);
	json_close(json, '}');
}

static void write_cpu(struct json *json, const grpc_LinuxCPU *cpu)
{
	json_open(json, "cpu", '{');
	if (cpu->Shares)
		json_uint(json, "shares", cpu->Shares);
	if (cpu->Quota)
		json_int(json, "quota", cpu->Quota);
	if (cpu->Period)
		json_uint(json, "period", cpu->Period);
	oci_write_text(json, "cpus", cpu->Cpus);
	oci_write_text(json, "mems", cpu->Mems);
	json_close(json, '}');
}

static void write_throttles(struct json *json, const char *name, const grpc_LinuxThrottleDevice *devices, size_t count)
{
	if (!count)
		return;
	json_open(json, name, '[');
	for (size_t i = 0; i < count; i++) {
		json_open(json, NULL, '{');
		json_int(json, "major", devices[i].Major);
		json_int(json, "minor", devices[i].Minor);
		json_uint(json, "rate", devices[i].Rate);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void write_block_io(struct json *json, const grpc_LinuxBlockIO *io)
{
	json_open(json, "blockIO", '{');
	if (io->Weight)
		json_uint(json, "weight", io->Weight);
	if (io->WeightDevice_count) {
		json_open(json, "weightDevice", '[');
		for (size_t i = 0; i < io->WeightDevice_count; i++) {
			json_open(json, NULL, '{');
			json_int(json, "major", io->WeightDevice[i].Major);
			json_int(json, "minor", io->WeightDevice[i].Minor);
			json_uint(json, "weight", io->WeightDevice[i].Weight);
			json_close(json, '}');
		}
		json_close(json, ']');
	}
	write_throttles(json, "throttleReadBpsDevice", io->ThrottleReadBpsDevice, io->ThrottleReadBpsDevice_count);
	write_throttles(json, "throttleWriteBpsDevice", io->ThrottleWriteBpsDevice, io->ThrottleWriteBpsDevice_count);
	write_throttles(json, "throttleReadIOPSDevice", io->ThrottleReadIOPSDevice, io->ThrottleReadIOPSDevice_count);
	write_throttles(json, "throttleWriteIOPSDevice", io->ThrottleWriteIOPSDevice,
			io->ThrottleWriteIOPSDevice_count);
	json_close(json, '}');
}

static void write_device_rules(struct json *json, const grpc_LinuxResources *resources)
{
	if (!resources->Devices_count)
		return;
	json_open(json, "devices", '[');
	for (size_t i = 0; i < resources->Devices_count; i++) {
		const grpc_LinuxDeviceCgroup *rule = &resources->Devices[i];
		/* "a" with the numbers 0:0 means all devices; "c" or "b" with them, that device. */
		bool all = !text_of(rule->Type)[0] || rule->Type[0] == 'a';

		json_open(json, NULL, '{');
		json_bool(json, "allow", rule->Allow);
		oci_write_text(json, "type", rule->Type);
		if (!all && rule->Major >= 0)
			json_int(json, "major", rule->Major);
		if (!all && rule->Minor >= 0)
			json_int(json, "minor", rule->Minor);
		oci_write_text(json, "access", rule->Access);
		json_close(json, '}');
	}
	json_close(json, ']');
}

void oci_write_resources(struct json *json, const char *name, const grpc_LinuxResources *resources)
{
	json_open(json, name, '{');
	write_device_rules(json, resources);
	if (resources->has_Memory)
		write_memory(json, &resources->Memory);
	if (resources->has_CPU)
		write_cpu(json, &resources->CPU);
	if (resources->has_Pids && resources->Pids.Limit) {
		json_open(json, "pids", '{');
		json_int(json, "limit", resources->Pids.Limit);
		json_close(json, '}');
	}
	if (resources->has_BlockIO)
		write_block_io(json, &resources->BlockIO);
	if (resources->HugepageLimits_count) {
		json_open(json, "hugepageLimits", '[');
		for (size_t i = 0; i < resources->HugepageLimits_count; i++) {
			json_open(json, NULL, '{');
			json_string(json, "pageSize", resources->HugepageLimits[i].Pagesize);
			json_uint(json, "limit", resources->HugepageLimits[i].Limit);
			json_close(json, '}');
		}
		json_close(json, ']');
	}
	json_close(json, '}');
}

static void write_namespace(struct json *json, const char *type, const char *path)
{
	json_open(json, NULL, '{');
	json_string(json, "type", type);
	oci_write_text(json, "path", path);
	json_close(json, '}');
}

static const grpc_LinuxNamespace *find_namespace(const grpc_Linux *linux_, const char *type)
{
	for (size_t i = 0; i < linux_->Namespaces_count; i++) {
		if (!strcmp(text_of(linux_->Namespaces[i].Type), type))
			return &linux_->Namespaces[i];
	}
	return NULL;
}

bool oci_has_namespace(const grpc_Linux *linux_, const char *type)
{
	return find_namespace(linux_, type);
}

static void write_namespaces(struct json *json, const grpc_Linux *linux_, const struct oci_place *place)
{
	static const char *const kinds[] = { "uts", "pid", "ipc", "cgroup", "user", "time" };

	json_open(json, "namespaces", '[');
	write_namespace(json, "mount", NULL);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		const grpc_LinuxNamespace *found = find_namespace(linux_, kinds[k]);

		if (place->pid_namespace && !strcmp(kinds[k], "pid"))
			write_namespace(json, "pid", place->pid_namespace);
		else if (found)
			write_namespace(json, kinds[k], found->Path);
	}
	json_close(json, ']');
}

static void write_id_mappings(struct json *json, const char *name, const grpc_LinuxIDMapping *mappings, size_t count)
{
	if (!count)
		return;
	json_open(json, name, '[');
	for (size_t i = 0; i < count; i++) {
		json_open(json, NULL, '{');
		json_uint(json, "hostID", mappings[i].HostID);
		json_uint(json, "containerID", mappings[i].ContainerID);
		json_uint(json, "size", mappings[i].Size);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void write_device(struct json *json, const grpc_LinuxDevice *device)
{
	json_open(json, NULL, '{');
	json_string(json, "path", device->Path);
	json_string(json, "type", device->Type);
	json_int(json, "major", device->Major);
	json_int(json, "minor", device->Minor);
	if (device->FileMode)
		json_uint(json, "fileMode", device->FileMode);
	json_uint(json, "uid", device->UID);
	json_uint(json, "gid", device->GID);
	json_close(json, '}');
}

void oci_write_devices_below(struct json *json, const char *path)
{
	static const char *const others[] = { "null", "zero",	 "full", "random", "urandom", "tty",
					      "ptmx", "console", "pts",	 "shm",	   "mqueue",  "fd" };
	DIR *directory = opendir(path);
	struct dirent *entry;

	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		char *file = xasprintf("%s/%s", path, entry->d_name), type[2] = "c";
		grpc_LinuxDevice device = { .Path = file, .Type = type };
		bool other = entry->d_name[0] == '.';
		struct stat status;

		for (size_t i = 0; i < ARRAY_SIZE(others); i++)
			other |= !strcmp(entry->d_name, others[i]);
		if (!other && !lstat(file, &status)) {
			if (S_ISBLK(status.st_mode))
				type[0] = 'b';
			device.Major = major(status.st_rdev);
			device.Minor = minor(status.st_rdev);
			device.FileMode = status.st_mode & 07777;
			device.UID = status.st_uid;
			device.GID = status.st_gid;
			if (S_ISDIR(status.st_mode))
				oci_write_devices_below(json, file);
			else if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode))
				write_device(json, &device);
		}
		free(file);
	}
	closedir(directory);
}

static void write_devices(struct json *json, const grpc_Linux *linux_)
{
	if (!linux_->Devices_count)
		return;
	json_open(json, "devices", '[');
	for (size_t i = 0; i < linux_->Devices_count; i++) {
		const grpc_LinuxDevice *device = &linux_->Devices[i];

		/* "a": all devices of the guest, for a privileged container */
		if (!strcmp(text_of(device->Type), "a") && path_is_valid(device->Path))
			oci_write_devices_below(json, device->Path);
		else
			write_device(json, device);
	}
	json_close(json, ']');
}

static void write_syscall(struct json *json, const grpc_LinuxSyscall *call)
{
	json_open(json, NULL, '{');
	oci_write_strings(json, "names", call->Names, call->Names_count);
	json_string(json, "action", call->Action);
	if (call->which_ErrnoRet)
		json_uint(json, "errnoRet", call->ErrnoRet.errnoret);
	if (call->Args_count) {
		json_open(json, "args", '[');
		for (size_t i = 0; i < call->Args_count; i++) {
			json_open(json, NULL, '{');
			json_uint(json, "index", call->Args[i].Index);
			json_uint(json, "value", call->Args[i].Value);
			json_uint(json, "valueTwo", call->Args[i].ValueTwo);
			json_string(json, "op", call->Args[i].Op);
			json_close(json, '}');
		}
		json_close(json, ']');
	}
	json_close(json, '}');
}

static void write_seccomp(struct json *json, const grpc_LinuxSeccomp *seccomp)
{
	json_open(json, "seccomp", '{');
	json_string(json, "defaultAction", seccomp->DefaultAction);
	oci_write_strings(json, "architectures", seccomp->Architectures, seccomp->Architectures_count);
	oci_write_strings(json, "flags", seccomp->Flags, seccomp->Flags_count);
	json_open(json, "syscalls", '[');
	for (size_t i = 0; i < seccomp->Syscalls_count; i++)
		write_syscall(json, &seccomp->Syscalls[i]);
	json_close(json, ']');
	json_close(json, '}');
}

static void write_sysctls(struct json *json, const grpc_Linux *linux_)
{
	if (!linux_->Sysctl_count)
		return;
	json_open(json, "sysctl", '{');
	for (size_t i = 0; i < linux_->Sysctl_count; i++) {
		/* sysctls_apply() sets the others for the whole pod. */
		if (!sysctl_is_shared(linux_, text_of(linux_->Sysctl[i].key)))
			json_string(json, text_of(linux_->Sysctl[i].key), linux_->Sysctl[i].value);
	}
	json_close(json, '}');
}

void oci_write_linux(struct json *json, const grpc_Linux *linux_, const struct oci_place *place)
{
	json_open(json, "linux", '{');
	write_id_mappings(json, "uidMappings", linux_->UIDMappings, linux_->UIDMappings_count);
	write_id_mappings(json, "gidMappings", linux_->GIDMappings, linux_->GIDMappings_count);
	write_sysctls(json, linux_);
	if (linux_->has_Resources)
		oci_write_resources(json, "resources", &linux_->Resources);
	json_string(json, "cgroupsPath", place->cgroup);
	write_namespaces(json, linux_, place);
	write_devices(json, linux_);
	if (linux_->has_Seccomp && text_of(linux_->Seccomp.DefaultAction)[0])
		write_seccomp(json, &linux_->Seccomp);
	oci_write_text(json, "rootfsPropagation", linux_->RootfsPropagation);
	oci_write_strings(json, "maskedPaths", linux_->MaskedPaths, linux_->MaskedPaths_count);
	oci_write_strings(json, "readonlyPaths", linux_->ReadonlyPaths, linux_->ReadonlyPaths_count);
	json_close(json, '}');
}
