// SPDX-License-Identifier: Apache-2.0
/* The methods that the host can call, and those that concern the sandbox as a whole. */
#include "container.h"

#include "../fuse/fuse.h"
#include "../strace.h"
#include "../vfs/process_file.h"

enum { SERVING = 1 };

static s64 check(struct call *call)
{
	put_field_number(&call->answer, HealthCheckResponse_status, SERVING);
	return 0;
}

static s64 version(struct call *call)
{
	put_field_text(&call->answer, VersionCheckResponse_grpc_version, "0.0.1");
	put_field_text(&call->answer, VersionCheckResponse_agent_version, "0.1.0");
	return 0;
}

static bool has_sandbox;

bool control_has_sandbox(void)
{
	return has_sandbox;
}

static s64 create_sandbox(struct call *call)
{
	struct reader r = call->request;
	struct field field;
	s64 error = 0;

	while (!error && field_next(&r, &field))
		if (field.number == CreateSandboxRequest_storages) {
			error = mount_storage(call, field.bytes);
		} else if (field.number == CreateSandboxRequest_hostname && field.bytes.at < field.bytes.end) {
			char *name = reader_text(&field.bytes);

			error = name ? 0 : -EINVAL;
			if (name)
				system_set_hostname(space_of_sandbox(SPACE_UTS), name);
			kfree(name);
		}
	has_sandbox = true;
	return error;
}

static s64 destroy_sandbox(struct call *call)
{
	struct super *super = fuse_root ? fuse_root->super : NULL;

	call->last = true;
	return super && super->operations->sync ? super->operations->sync(super) : 0;
}

/* Drop the numbers that were read from virtio-rng in advance.  All others come from the platform each time. */
static s64 reseed(struct call *call)
{
	(void)call;
	rng_forget();
	return 0;
}

/* The clocks are the host's already. */
static s64 set_time(struct call *call)
{
	(void)call;
	return 0;
}

static s64 details(struct call *call)
{
	struct text agent = { .data = NULL };

	put_field_text(&agent, AgentDetails_version, "0.1.0");
	put_field_text(&agent, AgentDetails_storage_handlers, "virtio-fs");
	put_field_text(&agent, AgentDetails_storage_handlers, "ephemeral");
	put_field_text(&agent, AgentDetails_storage_handlers, "local");
	put_field_message(&call->answer, GuestDetailsResponse_agent_details, &agent);
	return 0;
}

#define HEALTH(name, answer) { "grpc.Health", name, NULL, answer }
#define AGENT(name, request, answer) { "grpc.AgentService", name, request "Request", answer }

static const struct method {
	const char *service, *name;
	const char *request; /* its name in a policy; NULL: it is always served */
	s64 (*answer)(struct call *call); /* 0 or -errno */
} methods[] = {
	HEALTH("Check", check),
	HEALTH("Version", version),
	AGENT("CreateSandbox", "CreateSandbox", create_sandbox),
	AGENT("DestroySandbox", "DestroySandbox", destroy_sandbox),
	AGENT("SetPolicy", "SetPolicy", set_policy),
	AGENT("CreateContainer", "CreateContainer", create_container),
	AGENT("StartContainer", "StartContainer", start_container),
	AGENT("RemoveContainer", "RemoveContainer", remove_container),
	AGENT("ExecProcess", "ExecProcess", exec_process),
	AGENT("SignalProcess", "SignalProcess", signal_process_call),
	AGENT("WaitProcess", "WaitProcess", wait_process),
	AGENT("ListProcesses", "ListProcesses", list_processes),
	AGENT("UpdateContainer", "UpdateContainer", update_container),
	AGENT("StatsContainer", "StatsContainer", stats_container),
	AGENT("PauseContainer", "PauseContainer", freeze_container),
	AGENT("ResumeContainer", "ResumeContainer", thaw_container),
	AGENT("WriteStdin", "WriteStream", write_stdin),
	AGENT("ReadStdout", "ReadStream", read_stdout),
	AGENT("ReadStderr", "ReadStream", read_stderr),
	AGENT("CloseStdin", "CloseStdin", close_stdin),
	AGENT("TtyWinResize", "TtyWinResize", resize_terminal),
	AGENT("GetOOMEvent", "GetOOMEvent", get_oom_event),
	AGENT("UpdateInterface", "UpdateInterface", update_interface),
	AGENT("UpdateRoutes", "UpdateRoutes", update_routes),
	AGENT("AddARPNeighbors", "AddARPNeighbors", add_neighbors),
	AGENT("ReseedRandomDev", "ReseedRandomDev", reseed),
	AGENT("SetGuestDateTime", "SetGuestDateTime", set_time),
	AGENT("GetGuestDetails", "GuestDetails", details),
};

const char *error_text(s64 error)
{
	return -error < trace_errno_count && trace_errnos[-error].text ? trace_errnos[-error].text : "it failed";
}

static enum status status_of(s64 error)
{
	switch (-error) {
	case EINVAL:
	case ENAMETOOLONG: return STATUS_INVALID_ARGUMENT;
	case ENOENT:
	case ENODEV:
	case ESRCH: return STATUS_NOT_FOUND;
	case EEXIST: return STATUS_ALREADY_EXISTS;
	case ENOSPC:
	case EAGAIN:
	case ENOMEM: return STATUS_RESOURCE_EXHAUSTED;
	default: return STATUS_INTERNAL;
	}
}

static void call_unknown(struct call *call, const struct reader *service, const struct reader *name)
{
	enum { NAME_MOST = 128 };
	const u64 sizes[] = { reader_size(service), reader_size(name) };

	call_fail(call, STATUS_UNIMPLEMENTED, "the Sentry has no method /", NULL, NULL);
	text_bytes(&call->why, service->at, sizes[0] < NAME_MOST ? sizes[0] : NAME_MOST);
	text_put(&call->why, "/");
	text_bytes(&call->why, name->at, sizes[1] < NAME_MOST ? sizes[1] : NAME_MOST);
}

void call_dispatch(struct call *call, const struct reader *service, const struct reader *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(methods); i++) {
		s64 error;

		if (!reader_is(name, methods[i].name) || !reader_is(service, methods[i].service))
			continue;
		if (methods[i].request && policy_refuses(call, methods[i].request, false))
			return;
		error = methods[i].answer(call);
		if (error < 0 && call->status == STATUS_OK)
			call_fail(call, status_of(error), methods[i].name, ": ", error_text(error));
		return;
	}
	call_unknown(call, service, name);
}
