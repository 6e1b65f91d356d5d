/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host controls the sandbox by calls over vsock: those of the Linux guest's agent (agent.proto), by ttrpc.
 *
 * Each call runs in a task of the core's own, which sleeps until its answer is there. Such tasks belong to process 0,
 * which no program sees. It is the parent of the containers' first processes.
 */
#ifndef SENTRY_CONTROL_H
#define SENTRY_CONTROL_H

#include "../core.h"
#include "messages.h"
#include "wire.h"

enum { CONTROL_PORT = 1024 };

/* google.rpc.Code */
enum status {
	STATUS_OK = 0, STATUS_INVALID_ARGUMENT = 3, STATUS_DEADLINE_EXCEEDED = 4, STATUS_NOT_FOUND = 5,
	STATUS_ALREADY_EXISTS = 6, STATUS_PERMISSION_DENIED = 7, STATUS_RESOURCE_EXHAUSTED = 8,
	STATUS_FAILED_PRECONDITION = 9, STATUS_OUT_OF_RANGE = 11, STATUS_UNIMPLEMENTED = 12, STATUS_INTERNAL = 13,
};

struct connection;

struct call {
	struct list calls; /* of its connection */
	struct connection *connection;
	struct task *task; /* which answers it */
	bool cancelled;	   /* the connection is closed: the call must end */
	bool last;	   /* the sandbox ends after the answer */
	u32 stream;
	u8 *body;
	u64 body_size;
	struct reader request; /* the message of the method */
	struct text answer;    /* the same, of the answer */
	enum status status;
	struct text why; /* it failed */
};

/* -- server.c -- */

const char *control_start(void); /* instead of a first program: NULL, or why not */
/* The call fails with this status and a text of up to three parts, of which the last ones may be NULL. Returns 0. */
s64 call_fail(struct call *call, enum status status, const char *why, const char *subject, const char *more);
/* Sleep on a queue, or until the call is cancelled: 0 or -ECANCELED. */
s64 call_sleep(struct call *call, struct wait_queue *queue);
struct process *control_process(void);
const char *error_text(s64 error);

/* Tasks of the core's own, before the first one: false: no memory. */
bool control_tasks_init(void);
/* One with a reference to the agent's root and all rights; NULL: no memory. At its end, it leaves. */
struct task *control_task(void (*run)(void), void *data);
void control_task_leave(struct task *t);

/* -- methods.c -- */

bool control_has_sandbox(void);
void call_dispatch(struct call *call, const struct reader *service, const struct reader *method);

/* -- policy.c -- */

s64 set_policy(struct call *call);
/* Whether the policy refuses a request, which then fails; otherwise: what it does without a rule. */
bool policy_refuses(struct call *call, const char *request, bool otherwise);

#endif
