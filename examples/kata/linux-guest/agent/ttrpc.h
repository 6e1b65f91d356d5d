/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's side of ttrpc (containerd/ttrpc, PROTOCOL.md): connections, frames, calls and their answers. A frame is
 * a header of ten bytes (length, stream, both big-endian; type; flags) and a message of at most 4 MiB.
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
	const char *type; /* of the request, by which a policy names it; NULL: it is always served */
	const pb_msgdesc_t *fields; /* of the request */
	size_t size;
	size_t data; /* where the request has a field `data`, which goes to call->data; or NO_DATA */
	void (*handle)(struct call *call);
};

/*
 * A call of the host. Its method's handler, or what the handler started, answers it once, by call_reply, call_done or
 * call_fail; then it is gone.
 */
struct call {
	struct conn *conn; /* NULL: the caller has closed the connection, so there is no answer */
	uint32_t stream;
	const struct method *method;
	void *request; /* the message, as nanopb decoded it */
	uint8_t *data;
	size_t data_size;
	/*
	 * Set where the call is parked and has done nothing yet: takes it out of there. The call then goes without an
	 * answer when its connection does, and with DEADLINE_EXCEEDED when its time is over.
	 */
	void (*cancel)(struct call *call);
	void *owner; /* what it is parked in */
	struct call *parked_next;
	struct timer deadline;
	struct call *next;
};

/* The method of that name, NULL: there is none. call.c has the table. */
const struct method *method_find(const char *service, const char *name);

void call_reply(struct call *call, const pb_msgdesc_t *fields, const void *message);
/* Answer with google.protobuf.Empty. */
void call_done(struct call *call);
/* Answer with a message that is one field of bytes, number 1. */
void call_reply_bytes(struct call *call, const void *data, size_t size);
void call_fail(struct call *call, enum status_code code, const char *format, ...) __printf(3, 4);
/* Answer that the policy of that name refuses it. */
void call_refuse(struct call *call, const char *request, const char *policy);
/* The code that says what -errno means. */
enum status_code status_of(int error);

/* Whether a vsock connection comes from the host: containers have vsock, too. */
bool conn_is_host(int fd);
/* Accept connections on a listening socket; 0 or -errno. */
int ttrpc_serve(int fd);
/* Serve a connected socket, which belongs to the connection from then on; 0 or -errno. */
int conn_serve(int fd);

/* ---- ttrpc.c, call.c ---- */

/* A connection, and what ttrpc.c (bytes and frames) and call.c (calls and answers) have of each other. */

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
	uint8_t *body; /* of the frame whose header is there */
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

/* Write what the socket takes and keep the rest. An error shows when the socket is read. */
void conn_send(struct conn *conn, const uint8_t *data, size_t size);
/* Answer a stream that has not become a call. */
void conn_send_failure(struct conn *conn, uint32_t stream, enum status_code code, const char *text);
/* A Request has come: find its method, decode what the method takes, and call it. */
void call_begin(struct conn *conn, uint32_t stream, const uint8_t *body, size_t size);
/* The connection ends: parked calls go, the others run on without anybody to answer. */
void calls_end(struct conn *conn);

/* ---- policy.c, sandbox.c ---- */

#define POLICY_LINES 1000
#define POLICY_NAME_MAX 512

/* Zeros are one that names no request. */
struct policy {
	struct rule *rules;
};

/* Add the rules of a text: NULL, or what is wrong with which line. */
const char *policy_read(struct policy *policy, const char *text, unsigned int *line);
void policy_deinit(struct policy *policy);
/* Whether its rule allows a request; `otherwise` where it has none. */
bool policy_allows(const struct policy *policy, const char *request, bool otherwise);

/* The name of the sandbox's policy where that refuses a request, NULL: it does not, or there is none. */
const char *sandbox_refuses(const char *request, bool otherwise);

/* ---- guest.c ---- */

/* Write another line into the file by which programs of containers notice that their machine is a copy; 0 or -errno. */
int generation_renew(void);

/* ---- the methods, in the files of their subjects ---- */

/* The methods: each takes a call whose request has the type that its name says, and sees to its answer. */

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
