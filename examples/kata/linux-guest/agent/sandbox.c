// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include "ttrpc.h"

#include "agent.pb.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The version of Kata's interfaces. */
#define GRPC_VERSION "0.0.1"
/* Time for the answer to DestroySandbox to reach the host. */
#define LAST_NS 100000000ull

static struct {
	bool there;
	char *hostname;
	char *pid_namespace;
	char *policy_name; /* NULL: no policy, every request is served */
	struct policy policy;
	struct timer end;
} sandbox;

bool sandbox_is_there(void)
{
	return sandbox.there;
}

const char *sandbox_hostname(void)
{
	return text_of(sandbox.hostname);
}

const char *sandbox_pid_namespace(void)
{
	return sandbox.pid_namespace;
}

void rpc_check(struct call *call)
{
	grpc_HealthCheckResponse answer = { .status = grpc_HealthCheckResponse_ServingStatus_SERVING };

	call_reply(call, grpc_HealthCheckResponse_fields, &answer);
}

void rpc_version(struct call *call)
{
	grpc_VersionCheckResponse answer = { .grpc_version = GRPC_VERSION, .agent_version = AGENT_VERSION };

	call_reply(call, grpc_VersionCheckResponse_fields, &answer);
}

const char *sandbox_refuses(const char *request, bool otherwise)
{
	return !sandbox.policy_name || policy_allows(&sandbox.policy, request, otherwise) ? NULL : sandbox.policy_name;
}

/* Accepted once, before the sandbox is created. */
void rpc_set_policy(struct call *call)
{
	grpc_SetPolicyRequest *request = call->request;
	const char *name = text_of(request->name)[0] ? request->name : "of the sandbox";
	struct policy policy = { 0 };
	const char *wrong;
	unsigned int line;

	if (sandbox.policy_name) {
		call_fail(call, STATUS_PERMISSION_DENIED, "the policy %s cannot be changed", sandbox.policy_name);
		return;
	}
	if (sandbox.there) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "a policy comes before the sandbox");
		return;
	}
	wrong = policy_read(&policy, text_of(request->policy), &line);
	if (wrong) {
		policy_deinit(&policy);
		call_fail(call, STATUS_INVALID_ARGUMENT, "policy %.*s: line %u: %s", POLICY_NAME_MAX - 1, name, line,
			  wrong);
		return;
	}
	sandbox.policy = policy;
	sandbox.policy_name = xasprintf("%.*s", POLICY_NAME_MAX - 1, name);
	call_done(call);
}

/* Process 1 of the shared pid namespace: it only sleeps, and the kernel reaps its children. */
static int start_pause(void)
{
	long pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0);

	if (pid < 0)
		return -errno;
	if (!pid) {
		sigset_t none;

		prctl(PR_SET_NAME, "pause");
		signal(SIGCHLD, SIG_IGN);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		close_range(3, ~0u, 0);
		for (;;)
			pause();
	}
	sandbox.pid_namespace = xasprintf("/proc/%ld/ns/pid", pid);
	return 0;
}

/*
 * /etc belongs to the read-only image, so containers without a resolv.conf of their own get a bind mount of this
 * file.
 */
static int write_resolv_conf(const grpc_CreateSandboxRequest *request)
{
	char text[4096] = "";
	size_t used = 0;

	for (size_t i = 0; i < request->dns_count; i++) {
		const char *line = text_of(request->dns[i]);

		if (used + strlen(line) + 2 > sizeof(text))
			return -EINVAL;
		used += strlen(strcpy(text + used, line));
		text[used++] = '\n';
	}
	return file_create("/run/kata-containers/sandbox/resolv.conf", text, used, 0644);
}

void rpc_create_sandbox(struct call *call)
{
	grpc_CreateSandboxRequest *request = call->request;
	const char *hostname = text_of(request->hostname);
	char what[256] = "";
	int error = 0;

	if (sandbox.there) {
		call_fail(call, STATUS_ALREADY_EXISTS, "there is a sandbox");
		return;
	}
	if (hostname[0] && sethostname(hostname, strlen(hostname))) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "hostname: %s", strerror(errno));
		return;
	}
	if (request->dns_count)
		error = write_resolv_conf(request);
	if (!error && request->sandbox_pidns && !sandbox.pid_namespace)
		error = start_pause();
	for (size_t i = 0; !error && i < request->storages_count; i++)
		error = storage_mount(&request->storages[i], what);
	if (error) {
		storage_release_all();
		call_fail(call, status_of(error), "sandbox: %s%s%s", what, what[0] ? ": " : "", strerror(-error));
		return;
	}
	sandbox.hostname = xstrdup(hostname);
	sandbox.there = true;
	call_done(call);
}

static void power_off(struct timer *timer)
{
	(void)timer;
	/* Kill all processes before disks are unmounted. Processes that do not exit in 2 s are left behind. */
	kill(-1, SIGKILL);
	for (int i = 0; i < 200 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
		/* poll interval while they exit */
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	storage_release_all();
	sync();
	reboot(RB_POWER_OFF);
}

void rpc_destroy_sandbox(struct call *call)
{
	log_start();
	call_done(call);
	sandbox.end.fire = power_off;
	timer_set(&sandbox.end, clock_now() + LAST_NS);
}
