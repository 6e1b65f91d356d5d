/* SPDX-License-Identifier: Apache-2.0 */
/* A container's configuration for crun: a JSON writer, config.json, and the values that only the guest has. */
#ifndef AGENT_OCI_H
#define AGENT_OCI_H

#include "agent.pb.h"
#include "oci.pb.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- json.c ---- */

/* Writes JSON (RFC 8259) into a string that grows. */

struct json {
	char *text; /* not terminated; the caller frees it */
	size_t used, size;
	bool comma; /* a comma comes before the next value */
};

/* `name` is NULL for elements of an array. */
void json_open(struct json *json, const char *name, char bracket);
void json_close(struct json *json, char bracket);
void json_string(struct json *json, const char *name, const char *value);
void json_int(struct json *json, const char *name, int64_t value);
void json_uint(struct json *json, const char *name, uint64_t value);
/* Text that is JSON already. */
void json_raw(struct json *json, const char *text, size_t size);
void json_bool(struct json *json, const char *name, bool value);

/* ---- oci.c ---- */

/* The OCI messages as the JSON that crun reads (OCI runtime specification, config.md and config-linux.md). */

/* Settings that the agent chooses for a container, independent of its spec. */
struct oci_place {
	const char *cgroup; /* below the root of cgroups, with a slash in front */
	const char *hostname; /* used if the spec has none */
	const char *pid_namespace; /* the namespace to join; NULL: a new one */
};

/* Whether the container has a namespace of that type other than the guest's. */
bool oci_has_namespace(const grpc_Linux *linux_, const char *type);
/*
 * Write config.json, with the network namespace of the machine and a new mount namespace. NULL, or a message about an
 * invalid spec.
 */
const char *oci_write_config(struct json *json, const grpc_Spec *spec, const struct oci_place *place);
/* Write process.json of an exec; returns as oci_write_config does. */
const char *oci_write_process(struct json *json, const grpc_Process *process);
/* Write resources.json of an update. */
void oci_write_resources(struct json *json, const char *name, const grpc_LinuxResources *resources);

/* ---- oci_linux.c ---- */

/* Shared by oci.c and oci_linux.c. */

/* A list of strings, or one string; omitted if empty. */
void oci_write_strings(struct json *json, const char *name, char *const *strings, size_t count);
void oci_write_text(struct json *json, const char *name, const char *text);
/* The member "linux" of config.json. */
void oci_write_linux(struct json *json, const grpc_Linux *linux_, const struct oci_place *place);
/*
 * Elements of the device list: the nodes in a directory of ours, without those that every container has or that other
 * file systems provide.
 */
void oci_write_devices_below(struct json *json, const char *path);

/*
 * config.json as the host has written it, with what only the guest knows filled in. A string "@MARK:WORD:..." stands for it,
 * where MARK is the request's own, so that no string of a user's is taken for one:
 *
 *   ns:TYPE:ID    the path of a namespace of the container ID's first process
 *   sandbox:pid   the path of the pid namespace that the sandbox shares
 *   devices       members of a list: all devices that the guest has
 */

struct config_source {
	const char *text, *mark;
	/* The pid of a container's first process; 0 if there is none. */
	pid_t (*find)(const char *container_id);
	const char *pid_namespace; /* of the sandbox, or NULL */
	/* The number of the disk with that serial number; 0 or -errno. */
	int (*disk)(const char *serial, dev_t *number);
};

/* 0, or -errno with the reason in `what`. */
int config_fill(struct json *json, const struct config_source *source, char what[256]);

/* ---- oci_guest.c ---- */

/* Devices of a container: the host's spec does not have their numbers in the guest. */

/*
 * Replace the numbers in the spec's devices and device rules by those of the nodes in the request's `devices`. 0, or
 * -errno with the reason in `what`.
 */
int devices_resolve(grpc_CreateContainerRequest *request, char what[256]);

/* Sysctls of namespaces that all containers share, which crun cannot set for one container. */

/* Whether the sysctl belongs to the network namespace, or to a shared IPC namespace. */
bool sysctl_is_shared(const grpc_Linux *spec, const char *name);
/* Set those of a container's spec. 0, or -errno with the name of the refused one in `what`. */
int sysctls_apply(const grpc_Linux *spec, char what[256]);

#endif
