/* SPDX-License-Identifier: Apache-2.0 */
/* What oci.c and oci_linux.c have of each other. */
#ifndef AGENT_OCI_LINUX_H
#define AGENT_OCI_LINUX_H

#include "oci.h"

/* A list of strings, or one string; nothing where it is empty. */
void oci_write_strings(struct json *json, const char *name, char *const *strings, size_t count);
void oci_write_text(struct json *json, const char *name, const char *text);
/* The member "linux" of config.json. */
void oci_write_linux(struct json *json, const grpc_Linux *linux_, const struct oci_place *place);
/*
 * Members of a list: the devices of a directory of ours; what every container has, and what belongs to file systems of their
 * own, apart.
 */
void oci_write_devices_below(struct json *json, const char *path);

#endif
