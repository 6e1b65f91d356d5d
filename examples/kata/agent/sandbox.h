/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox: what the containers of the pod share. */
#ifndef AGENT_SANDBOX_H
#define AGENT_SANDBOX_H

#include <stdbool.h>

/* Whether CreateSandbox was called. */
bool sandbox_is_there(void);
/* Its host name, "" without one. */
const char *sandbox_hostname(void);
/* The path of the pid namespace that containers may share; NULL: there is none. */
const char *sandbox_pid_namespace(void);

#endif
