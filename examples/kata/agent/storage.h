/* SPDX-License-Identifier: Apache-2.0 */
/* Storages: what is mounted in the machine for its containers, outside of them. */
#ifndef AGENT_STORAGE_H
#define AGENT_STORAGE_H

#include "util.h"

#include "agent.pb.h"

/* What a Storage's `driver` may be. */
extern const char *const storage_drivers[];
extern const size_t storage_driver_count;

/*
 * Mount it, or count one more user where its mount point is mounted already. 0 or -errno; -errno with what it could not
 * do in `what`.
 */
int storage_mount(const grpc_Storage *storage, char what[256]);
/* One user less; the last one unmounts it. */
void storage_release(const char *mount_point);
void storage_release_all(void);

#endif
