// SPDX-License-Identifier: Apache-2.0
/*
 * What comes over the agent's connection: frames, requests, every method's message, and the config.json that is made of
 * one. Input: the bytes that the host sends. The methods do nothing here but to answer, to wait, or to convert.
 */
#include "loop.h"
#include "oci.h"
#include "ttrpc.h"

#include "agent.pb.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct call *parked;

static void unpark(struct call *call)
{
	struct call **link = &parked;

	while (*link != call)
		link = &(*link)->parked_next;
	*link = call->parked_next;
}

static void park(struct call *call)
{
	call->cancel = unpark;
	call->parked_next = parked;
	parked = call;
}

#define DOES(method, act)                                                                                              \
	void rpc_##method(struct call *call)                                                                           \
	{                                                                                                              \
		act(call);                                                                                             \
	}

DOES(check, call_done)
DOES(version, call_done)
DOES(create_sandbox, call_done)
DOES(destroy_sandbox, call_done)
DOES(start_container, call_done)
DOES(remove_container, call_done)
DOES(stats_container, call_done)
DOES(list_processes, call_done)
DOES(pause_container, call_done)
DOES(resume_container, call_done)
DOES(signal_process, call_done)
DOES(wait_process, park)
DOES(read_stdout, park)
DOES(read_stderr, park)
DOES(close_stdin, call_done)
DOES(resize_tty, call_done)
DOES(update_interface, call_done)
DOES(update_routes, call_done)
DOES(list_interfaces, call_done)
DOES(list_routes, call_done)
DOES(add_arp_neighbors, call_done)
DOES(online_cpu_mem, call_done)
DOES(get_guest_details, call_done)
DOES(set_guest_date_time, call_done)
DOES(get_oom_event, park)

/* Its rules would hold for later inputs, too. */
const char *sandbox_refuses(const char *request, bool otherwise)
{
	(void)request;
	(void)otherwise;
	return NULL;
}

void rpc_set_policy(struct call *call)
{
	grpc_SetPolicyRequest *request = call->request;
	struct policy policy = { 0 };
	unsigned int line;
	const char *wrong = policy_read(&policy, text_of(request->policy), &line);

	policy_deinit(&policy);
	if (wrong)
		call_fail(call, STATUS_INVALID_ARGUMENT, "line %u: %s", line, wrong);
	else
		call_done(call);
}

static void echo(struct call *call)
{
	call_reply_bytes(call, call->data, call->data_size);
}

DOES(write_stdin, echo)
DOES(reseed_random_dev, echo)
DOES(copy_file, echo)

static void answer(struct call *call, struct json *json, const char *wrong)
{
	if (wrong)
		call_fail(call, STATUS_INVALID_ARGUMENT, "%s", wrong);
	else
		call_reply_bytes(call, json->text, json->used);
	free(json->text);
}

void rpc_create_container(struct call *call)
{
	grpc_CreateContainerRequest *request = call->request;
	const struct oci_place place = { .cgroup = "/c", .hostname = "h", .pid_namespace = NULL };
	struct json json = { 0 };

	answer(call, &json, oci_write_config(&json, &request->OCI, &place));
}

void rpc_exec_process(struct call *call)
{
	grpc_ExecProcessRequest *request = call->request;
	struct json json = { 0 };

	answer(call, &json, oci_write_process(&json, &request->process));
}

void rpc_update_container(struct call *call)
{
	grpc_UpdateContainerRequest *request = call->request;
	struct json json = { 0 };

	oci_write_resources(&json, NULL, &request->resources);
	answer(call, &json, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	int ends[2];

	if (!ready && loop_init())
		abort();
	ready = true;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) || conn_serve(ends[0]))
		abort();
	if (write(ends[1], data, size) != (ssize_t)size)
		abort();
	while (loop_step(0) == 1)
		;
	close(ends[1]);
	while (loop_step(0) == 1)
		;
	if (parked)
		abort(); /* the connection has ended, its calls have not */
	return 0;
}
