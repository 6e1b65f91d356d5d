// SPDX-License-Identifier: Apache-2.0
/* The methods that the host can call, and those that concern the sandbox as a whole. */
#include "control.h"

#include "../strace.h"

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

static const struct method {
	const char *service, *name;
	s64 (*answer)(struct call *call); /* 0 or -errno */
} methods[] = {
	{ "grpc.Health", "Check", check },
	{ "grpc.Health", "Version", version },
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
		error = methods[i].answer(call);
		if (error < 0)
			call_fail(call, status_of(error), methods[i].name, ": ", error_text(error));
		return;
	}
	call_unknown(call, service, name);
}
