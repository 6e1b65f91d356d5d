/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel parameters of the namespaces that all containers share, which crun does not set for one of them. */
#ifndef AGENT_SYSCTL_H
#define AGENT_SYSCTL_H

#include <stdbool.h>

#include "oci.pb.h"

/* Whether the parameter is of the network or, unless the container has its own, of System V and POSIX IPC. */
bool sysctl_is_shared(const grpc_Linux *spec, const char *name);
/* Set those of a container's spec; 0 or -errno, with the name of what could not be set in `what`. */
int sysctls_apply(const grpc_Linux *spec, char what[256]);

#endif
