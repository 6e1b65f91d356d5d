/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of a container: the host's spec does not know their numbers in the guest. */
#ifndef AGENT_DEVICE_H
#define AGENT_DEVICE_H

#include "agent.pb.h"

/*
 * Give the spec's devices (and the cgroup's rules about them) the numbers that the nodes named in the request's
 * `devices` have. 0 or -errno, with the reason in `what`.
 */
int devices_resolve(grpc_CreateContainerRequest *request, char what[256]);

#endif
