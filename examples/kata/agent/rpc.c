// SPDX-License-Identifier: Apache-2.0
#include "ttrpc.h"

#include "agent.pb.h"
#include "health.pb.h"

#include <string.h>

#define AGENT(name, type, handler) \
	{ "grpc.AgentService", name, grpc_##type##_fields, sizeof(grpc_##type), NO_DATA, handler }
#define AGENT_DATA(name, type, handler) \
	{ "grpc.AgentService", name, grpc_##type##_fields, sizeof(grpc_##type), offsetof(grpc_##type, data), handler }
#define HEALTH(name, handler) \
	{ "grpc.Health", name, grpc_CheckRequest_fields, sizeof(grpc_CheckRequest), NO_DATA, handler }

static const struct method methods[] = {
	HEALTH("Check", rpc_check),
	HEALTH("Version", rpc_version),
	AGENT("CreateSandbox", CreateSandboxRequest, rpc_create_sandbox),
	AGENT("DestroySandbox", DestroySandboxRequest, rpc_destroy_sandbox),
	AGENT("CreateContainer", CreateContainerRequest, rpc_create_container),
	AGENT("StartContainer", StartContainerRequest, rpc_start_container),
	AGENT("RemoveContainer", RemoveContainerRequest, rpc_remove_container),
	AGENT("ExecProcess", ExecProcessRequest, rpc_exec_process),
	AGENT("SignalProcess", SignalProcessRequest, rpc_signal_process),
	AGENT("WaitProcess", WaitProcessRequest, rpc_wait_process),
	AGENT("UpdateContainer", UpdateContainerRequest, rpc_update_container),
	AGENT("StatsContainer", StatsContainerRequest, rpc_stats_container),
	AGENT("ListProcesses", ListProcessesRequest, rpc_list_processes),
	AGENT("PauseContainer", PauseContainerRequest, rpc_pause_container),
	AGENT("ResumeContainer", ResumeContainerRequest, rpc_resume_container),
	AGENT_DATA("WriteStdin", WriteStreamRequest, rpc_write_stdin),
	AGENT("ReadStdout", ReadStreamRequest, rpc_read_stdout),
	AGENT("ReadStderr", ReadStreamRequest, rpc_read_stderr),
	AGENT("CloseStdin", CloseStdinRequest, rpc_close_stdin),
	AGENT("TtyWinResize", TtyWinResizeRequest, rpc_resize_tty),
	AGENT("UpdateInterface", UpdateInterfaceRequest, rpc_update_interface),
	AGENT("UpdateRoutes", UpdateRoutesRequest, rpc_update_routes),
	AGENT("ListInterfaces", ListInterfacesRequest, rpc_list_interfaces),
	AGENT("ListRoutes", ListRoutesRequest, rpc_list_routes),
	AGENT("AddARPNeighbors", AddARPNeighborsRequest, rpc_add_arp_neighbors),
	AGENT("OnlineCPUMem", OnlineCPUMemRequest, rpc_online_cpu_mem),
	AGENT_DATA("ReseedRandomDev", ReseedRandomDevRequest, rpc_reseed_random_dev),
	AGENT("GetGuestDetails", GuestDetailsRequest, rpc_get_guest_details),
	AGENT("SetGuestDateTime", SetGuestDateTimeRequest, rpc_set_guest_date_time),
	AGENT_DATA("CopyFile", CopyFileRequest, rpc_copy_file),
	AGENT("GetOOMEvent", GetOOMEventRequest, rpc_get_oom_event),
};

const struct method *method_find(const char *service, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		if (!strcmp(methods[i].name, name) && !strcmp(methods[i].service, service))
			return &methods[i];
	}
	return NULL;
}
