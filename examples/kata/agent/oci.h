/* SPDX-License-Identifier: Apache-2.0 */
/* The OCI messages as the JSON that crun reads (OCI runtime specification, config.md and config-linux.md). */
#ifndef AGENT_OCI_H
#define AGENT_OCI_H

#include "json.h"

#include "oci.pb.h"

/* What the agent decides about a container, whatever its spec says. */
struct oci_place {
	const char *cgroup; /* below the root of cgroups, with a slash in front */
	const char *hostname; /* where the spec has none */
	const char *pid_namespace; /* to join; NULL: the container gets its own */
};

/* Whether the container is in another namespace of that type than the guest. */
bool oci_has_namespace(const grpc_Linux *linux_, const char *type);
/*
 * Write config.json. The network is that of the machine, which is the pod, and the mount namespace is new. NULL when the spec is good, else what is wrong with it.
 */
const char *oci_write_config(struct json *json, const grpc_Spec *spec, const struct oci_place *place);
/* Write process.json of an exec; as oci_write_config. */
const char *oci_write_process(struct json *json, const grpc_Process *process);
/* Write the resources of an update. */
void oci_write_resources(struct json *json, const char *name, const grpc_LinuxResources *resources);

#endif
