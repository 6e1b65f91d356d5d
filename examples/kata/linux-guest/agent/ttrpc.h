/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server side of ttrpc (containerd/ttrpc, PROTOCOL.md): connections, frames, calls and answers. A frame is a
 * header of ten bytes (length, stream, both big-endian; type; flags) and a message of at most 4 MiB.
 */
#ifndef AGENT_TTRPC_H
#define AGENT_TTRPC_H

#include "loop.h"
#include "util.h"

#include <endian.h>
#include <pb.h>
#include <string.h>

#define TTRPC_PORT 1024
#define TTRPC_MESSAGE_MAX (4u << 20)
#define TTRPC_HEADER 10

/* google.rpc.Code */
enum status_code {
	STATUS_OK = 0,
	STATUS_UNKNOWN = 2,
	STATUS_INVALID_ARGUMENT = 3,
	STATUS_DEADLINE_EXCEEDED = 4,
	STATUS_NOT_FOUND = 5,
	STATUS_ALREADY_EXISTS = 6,
	STATUS_PERMISSION_DENIED = 7,
	STATUS_RESOURCE_EXHAUSTED = 8,
	STATUS_FAILED_PRECONDITION = 9,
	STATUS_OUT_OF_RANGE = 11,
	STATUS_UNIMPLEMENTED = 12,
	STATUS_INTERNAL = 13,
};

struct call;

#define NO_DATA SIZE_MAX

struct method {
	const char *service;
	const char *name;
	const char *type; /* name of the request in a policy; NULL: always served */
	const pb_msgdesc_t *fields; /* of the request */
	size_t size;
	size_t data; /* tag of the request's field `data`, which is stored in call->data; or NO_DATA */
	void (*handle)(struct call *call);
};

/*
 * A call from the host. The handler of its method, or an operation that the handler started, answers it exactly once
 * by call_reply, call_done or call_fail, which free it.
 */
struct call {
	struct conn *conn; /* NULL: the host has closed the connection, and gets no answer */
	uint32_t stream;
	const struct method *method;
	void *request; /* the request, decoded by nanopb */
	uint8_t *data;
	size_t data_size;
	/*
	 * Set while the call is parked and has had no effect: removes it from its queue. The call is then freed
	 * without an answer when its connection closes, and answered with DEADLINE_EXCEEDED at its deadline.
	 */
	void (*cancel)(struct call *call);
	void *owner; /* the object in which it is parked */
	struct call *parked_next;
	struct timer deadline;
	struct call *next;
};

/* The method of that name, or NULL. The table is in call.c. */
const struct method *method_find(const char *service, const char *name);

void call_reply(struct call *call, const pb_msgdesc_t *fields, const void *message);
/* Answer with google.protobuf.Empty. */
void call_done(struct call *call);
/* Answer with a message that has one bytes field, number 1. */
void call_reply_bytes(struct call *call, const void *data, size_t size);
void call_fail(struct call *call, enum status_code code, const char *format, ...) __printf(3, 4);
/* Answer that the policy of that name refuses it. */
void call_refuse(struct call *call, const char *request, const char *policy);
/* The google.rpc.Code for -errno. */
enum status_code status_of(int error);

/* Whether a vsock connection comes from the host, and not from a container. */
bool conn_is_host(int fd);
/* Accept connections on a listening socket; 0 or -errno. */
int ttrpc_serve(int fd);
/* Serve a connected socket, which the connection owns from then on; 0 or -errno. */
int conn_serve(int fd);

/* ---- ttrpc.c, call.c ---- */

/* A connection: shared by ttrpc.c (bytes and frames) and call.c (calls and answers). */

enum frame_type {
	FRAME_REQUEST = 1,
	FRAME_RESPONSE = 2,
};

struct conn {
	struct watch watch;
	struct call *calls;
	unsigned int call_count;
	uint8_t header[TTRPC_HEADER];
	size_t header_used;
	uint8_t *body; /* of the frame whose header was read */
	size_t body_size, body_used;
	bool skipping; /* a frame that is too large is read and dropped */
	uint8_t *out;
	size_t out_size, out_used;
};

static inline uint32_t frame_get_be32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

/* Write as much as the socket accepts and queue the rest. Errors are found when the socket is read. */
void conn_send(struct conn *conn, const uint8_t *data, size_t size);
/* Answer a stream for which there is no call. */
void conn_send_failure(struct conn *conn, uint32_t stream, enum status_code code, const char *text);
/* Find the method of a received Request, decode its message, and call the handler. */
void call_begin(struct conn *conn, uint32_t stream, const uint8_t *body, size_t size);
/* The connection has closed: drop parked calls; others continue without an answer. */
void calls_end(struct conn *conn);

/* ---- policy.c, sandbox.c ---- */

#define POLICY_LINES 1000
#define POLICY_NAME_MAX 512

/* All zeros: a policy without rules. */
struct policy {
	struct rule *rules;
};

/* Add the rules of a text: NULL, or an error message with the line. */
const char *policy_read(struct policy *policy, const char *text, unsigned int *line);
void policy_deinit(struct policy *policy);
/* Whether its rule allows a request; `otherwise` if there is no rule. */
bool policy_allows(const struct policy *policy, const char *request, bool otherwise);

/* The name of the sandbox's policy if it refuses the request, otherwise NULL. */
const char *sandbox_refuses(const char *request, bool otherwise);

/* ---- guest.c ---- */

/* Change the file by which programs in containers detect that their machine is a clone; 0 or -errno. */
int generation_renew(void);

/* ---- the methods, in the files of their subjects ---- */

/* The methods: each receives a call whose request has the type of its name, and answers it. */

#define AGENT_VERSION "0.1.0"

void rpc_check(struct call *call);
void rpc_version(struct call *call);

void rpc_create_sandbox(struct call *call);
void rpc_destroy_sandbox(struct call *call);
void rpc_set_policy(struct call *call);

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
