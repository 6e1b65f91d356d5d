/* SPDX-License-Identifier: Apache-2.0 */
/* The methods: each takes a call whose request has the type that its name says, and sees to its answer. */
#ifndef AGENT_RPC_H
#define AGENT_RPC_H

#include "ttrpc.h"

#define AGENT_VERSION "0.1.0"

void rpc_check(struct call *call);
void rpc_version(struct call *call);

void rpc_create_sandbox(struct call *call);
void rpc_destroy_sandbox(struct call *call);

void rpc_create_container(struct call *call);
void rpc_start_container(struct call *call);
void rpc_remove_container(struct call *call);
void rpc_update_container(struct call *call);
void rpc_stats_container(struct call *call);
void rpc_pause_container(struct call *call);
void rpc_resume_container(struct call *call);
void rpc_list_processes(struct call *call);

void rpc_exec_process(struct call *call);
void rpc_signal_process(struct call *call);
void rpc_wait_process(struct call *call);
void rpc_write_stdin(struct call *call);
void rpc_read_stdout(struct call *call);
void rpc_read_stderr(struct call *call);
void rpc_close_stdin(struct call *call);
void rpc_resize_tty(struct call *call);

void rpc_update_interface(struct call *call);
void rpc_update_routes(struct call *call);
void rpc_list_interfaces(struct call *call);
void rpc_list_routes(struct call *call);
void rpc_add_arp_neighbors(struct call *call);

void rpc_online_cpu_mem(struct call *call);
void rpc_reseed_random_dev(struct call *call);
void rpc_get_guest_details(struct call *call);
void rpc_set_guest_date_time(struct call *call);
void rpc_copy_file(struct call *call);
void rpc_get_oom_event(struct call *call);

#endif
