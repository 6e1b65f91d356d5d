// SPDX-License-Identifier: Apache-2.0
/* RPCs from the host: the method table, and how a call starts, is parked, and is answered. */
#include "ttrpc.h"

#include "agent.pb.h"

#include <errno.h>
#include <pb_decode.h>
#include <pb_encode.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS_MAX 1024
#define NAME_MAX_LENGTH 128
#define BLOCKED "%s is blocked by the policy %s"

/* A ttrpc Request, decoded by hand so that its payload is not copied. */
struct envelope {
	char service[NAME_MAX_LENGTH], method[NAME_MAX_LENGTH];
	const uint8_t *payload;
	size_t payload_size;
	uint64_t timeout; /* ns, 0: none */
};

static void put_be32(uint8_t *at, uint32_t value)
{
	value = htobe32(value);
	memcpy(at, &value, sizeof(value));
}

static void call_free(struct call *call)
{
	struct call **link = call->conn ? &call->conn->calls : NULL;

	if (link) {
		while (*link != call)
			link = &(*link)->next;
		*link = call->next;
		call->conn->call_count--;
	}
	timer_clear(&call->deadline);
	if (call->request) {
		pb_release(call->method->fields, call->request);
		free(call->request);
	}
	free(call->data);
	free(call);
}

void calls_end(struct conn *conn)
{
	struct call *call;

	while ((call = conn->calls)) {
		if (call->cancel) {
			call->cancel(call);
			call_free(call);
		} else {
			conn->calls = call->next;
			call->conn = NULL;
			timer_clear(&call->deadline);
		}
	}
}

/* Send a Response whose fields `write` encodes. */
static void send_response(struct conn *conn, uint32_t stream, bool (*write)(pb_ostream_t *, const void *),
			  const void *what)
{
	pb_ostream_t sizing = PB_OSTREAM_SIZING, out;
	uint8_t *frame;

	if (!write(&sizing, what) || sizing.bytes_written > TTRPC_MESSAGE_MAX) {
		log_line("an answer that cannot be encoded: %s", PB_GET_ERROR(&sizing));
		return;
	}
	frame = xzalloc(TTRPC_HEADER + sizing.bytes_written);
	put_be32(frame, sizing.bytes_written);
	put_be32(frame + 4, stream);
	frame[8] = FRAME_RESPONSE;
	out = pb_ostream_from_buffer(frame + TTRPC_HEADER, sizing.bytes_written);
	if (write(&out, what))
		conn_send(conn, frame, TTRPC_HEADER + out.bytes_written);
	free(frame);
}

struct payload {
	const pb_msgdesc_t *fields;
	const void *message;
};

static bool write_payload(pb_ostream_t *out, const void *what)
{
	const struct payload *payload = what;

	return pb_encode_tag(out, PB_WT_STRING, 2) && pb_encode_submessage(out, payload->fields, payload->message);
}

static bool write_empty(pb_ostream_t *out, const void *what)
{
	return pb_encode_tag(out, PB_WT_STRING, 2) && pb_encode_string(out, what, 0);
}

struct bytes {
	const uint8_t *data;
	size_t size;
};

static bool write_bytes(pb_ostream_t *out, const void *what)
{
	const struct bytes *bytes = what;
	pb_ostream_t inner = PB_OSTREAM_SIZING;

	if (!pb_encode_tag(&inner, PB_WT_STRING, 1) || !pb_encode_string(&inner, bytes->data, bytes->size))
		return false;
	return pb_encode_tag(out, PB_WT_STRING, 2) && pb_encode_varint(out, inner.bytes_written) &&
	       pb_encode_tag(out, PB_WT_STRING, 1) && pb_encode_string(out, bytes->data, bytes->size);
}

struct failure {
	enum status_code code;
	const char *text;
};

static bool write_failure(pb_ostream_t *out, const void *what)
{
	const struct failure *failure = what;
	uint8_t buffer[1100];
	pb_ostream_t status = pb_ostream_from_buffer(buffer, sizeof(buffer));

	return pb_encode_tag(&status, PB_WT_VARINT, 1) && pb_encode_varint(&status, failure->code) &&
	       pb_encode_tag(&status, PB_WT_STRING, 2) &&
	       pb_encode_string(&status, (const uint8_t *)failure->text, strlen(failure->text)) &&
	       pb_encode_tag(out, PB_WT_STRING, 1) && pb_encode_string(out, buffer, status.bytes_written);
}

void conn_send_failure(struct conn *conn, uint32_t stream, enum status_code code, const char *text)
{
	struct failure failure = { code, text };

	send_response(conn, stream, write_failure, &failure);
}

void call_reply(struct call *call, const pb_msgdesc_t *fields, const void *message)
{
	struct payload payload = { fields, message };

	if (call->conn)
		send_response(call->conn, call->stream, write_payload, &payload);
	call_free(call);
}

void call_done(struct call *call)
{
	if (call->conn)
		send_response(call->conn, call->stream, write_empty, "");
	call_free(call);
}

void call_reply_bytes(struct call *call, const void *data, size_t size)
{
	struct bytes bytes = { data, size };

	if (call->conn)
		send_response(call->conn, call->stream, write_bytes, &bytes);
	call_free(call);
}

void call_fail(struct call *call, enum status_code code, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (call->conn)
		conn_send_failure(call->conn, call->stream, code, text);
	call_free(call);
}

void call_refuse(struct call *call, const char *request, const char *policy)
{
	call_fail(call, STATUS_PERMISSION_DENIED, BLOCKED, request, policy);
}

enum status_code status_of(int error)
{
	switch (-error) {
	case EINVAL:
	case ENAMETOOLONG:
		return STATUS_INVALID_ARGUMENT;
	case ENOENT:
	case ENODEV:
	case ESRCH:
		return STATUS_NOT_FOUND;
	case EEXIST:
		return STATUS_ALREADY_EXISTS;
	case ENOSPC:
	case EAGAIN:
	case ENOMEM:
		return STATUS_RESOURCE_EXHAUSTED;
	default:
		return STATUS_INTERNAL;
	}
}

static void deadline_fire(struct timer *timer)
{
	struct call *call = container_of(timer, struct call, deadline);

	if (!call->cancel)
		return;
	call->cancel(call);
	call_fail(call, STATUS_DEADLINE_EXCEEDED, "%s: time is over", call->method->name);
}

static bool read_name(pb_istream_t *in, char name[NAME_MAX_LENGTH])
{
	uint32_t size;

	if (!pb_decode_varint32(in, &size) || size >= NAME_MAX_LENGTH)
		return false;
	name[size] = '\0';
	return pb_read(in, (uint8_t *)name, size);
}

static bool read_envelope(const uint8_t *body, size_t size, struct envelope *envelope)
{
	pb_istream_t in = pb_istream_from_buffer(body, size);
	pb_wire_type_t type;
	uint32_t tag, length;
	bool eof;

	memset(envelope, 0, sizeof(*envelope));
	while (pb_decode_tag(&in, &type, &tag, &eof)) {
		bool good;

		if (tag == 1 && type == PB_WT_STRING) {
			good = read_name(&in, envelope->service);
		} else if (tag == 2 && type == PB_WT_STRING) {
			good = read_name(&in, envelope->method);
		} else if (tag == 3 && type == PB_WT_STRING) {
			good = pb_decode_varint32(&in, &length) && length <= in.bytes_left;
			envelope->payload = body + size - in.bytes_left;
			envelope->payload_size = length;
			good = good && pb_read(&in, NULL, length);
		} else if (tag == 4 && type == PB_WT_VARINT) {
			good = pb_decode_varint(&in, &envelope->timeout);
		} else {
			good = pb_skip_field(&in, type);
		}
		if (!good)
			return false;
	}
	return eof;
}

static bool read_data(pb_istream_t *in, const pb_field_t *field, void **arg)
{
	struct call *call = *arg;

	(void)field;
	free(call->data); /* protobuf: the last occurrence counts */
	call->data_size = in->bytes_left;
	call->data = malloc(call->data_size ? call->data_size : 1);
	return call->data && pb_read(in, call->data, call->data_size);
}

void call_begin(struct conn *conn, uint32_t stream, const uint8_t *body, size_t size)
{
	struct envelope envelope;
	const struct method *method;
	const char *refuser;
	struct call *call;
	pb_istream_t in;

	if (!read_envelope(body, size, &envelope)) {
		conn_send_failure(conn, stream, STATUS_INVALID_ARGUMENT, "not a ttrpc request");
		return;
	}
	method = method_find(envelope.service, envelope.method);
	if (!method) {
		char text[2 * NAME_MAX_LENGTH + 32];

		snprintf(text, sizeof(text), "no method /%s/%s", envelope.service, envelope.method);
		conn_send_failure(conn, stream, STATUS_UNIMPLEMENTED, text);
		return;
	}
	refuser = method->type ? sandbox_refuses(method->type, false) : NULL;
	if (refuser) {
		char text[POLICY_NAME_MAX + NAME_MAX_LENGTH];

		snprintf(text, sizeof(text), BLOCKED, method->type, refuser);
		conn_send_failure(conn, stream, STATUS_PERMISSION_DENIED, text);
		return;
	}
	if (conn->call_count >= CALLS_MAX) {
		conn_send_failure(conn, stream, STATUS_RESOURCE_EXHAUSTED, "too many calls at once");
		return;
	}
	call = xzalloc(sizeof(*call));
	call->conn = conn;
	call->stream = stream;
	call->method = method;
	call->deadline.fire = deadline_fire;
	call->next = conn->calls;
	conn->calls = call;
	conn->call_count++;
	call->request = xzalloc(method->size);
	if (method->data != NO_DATA) {
		pb_callback_t *callback = (pb_callback_t *)((char *)call->request + method->data);

		callback->funcs.decode = read_data;
		callback->arg = call;
	}
	in = pb_istream_from_buffer(envelope.payload, envelope.payload_size);
	if (!pb_decode_ex(&in, method->fields, call->request, PB_DECODE_NOINIT)) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "%s: bad message: %s", method->name, PB_GET_ERROR(&in));
		return;
	}
	if (envelope.timeout && envelope.timeout < INT64_MAX / 2)
		timer_set(&call->deadline, clock_now() + envelope.timeout);
	method->handle(call);
}

/* ---- rpc ---- */

#define AGENT(name, type, handler) \
	{ "grpc.AgentService", name, #type, grpc_##type##_fields, sizeof(grpc_##type), NO_DATA, handler }
#define AGENT_DATA(name, type, handler) \
	{ "grpc.AgentService", name, #type, grpc_##type##_fields, sizeof(grpc_##type), offsetof(grpc_##type, data), \
	  handler }
#define HEALTH(name, handler) \
	{ "grpc.Health", name, NULL, grpc_CheckRequest_fields, sizeof(grpc_CheckRequest), NO_DATA, handler }

static const struct method methods[] = {
	HEALTH("Check", rpc_check),
	HEALTH("Version", rpc_version),
	AGENT("CreateSandbox", CreateSandboxRequest, rpc_create_sandbox),
	AGENT("DestroySandbox", DestroySandboxRequest, rpc_destroy_sandbox),
	AGENT("SetPolicy", SetPolicyRequest, rpc_set_policy),
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
