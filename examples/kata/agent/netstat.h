/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of the network interfaces. */
#ifndef AGENT_NETSTAT_H
#define AGENT_NETSTAT_H

#include "agent.pb.h"

/* The counters of each interface but the loopback, allocated, and how many there are. */
grpc_NetworkStats *netstat_read(pb_size_t *count);

#endif
