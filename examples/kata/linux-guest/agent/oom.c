// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include "ttrpc.h"

#include "agent.pb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

/* Containers that ran out of memory while no call waited for it; the oldest are dropped. */
#define UNTOLD_MAX 64

struct oom {
	struct watch watch; /* an inotify instance: kernfs reports each change of the file */
	char *events; /* the path of memory.events */
	char *id;
	uint64_t kills;
};

static struct call *listeners;
static char *untold[UNTOLD_MAX];
static size_t untold_count;

static void listener_cancel(struct call *call)
{
	struct call **link = &listeners;

	while (*link != call)
		link = &(*link)->parked_next;
	*link = call->parked_next;
}

static void oom_tell(void)
{
	while (listeners && untold_count) {
		struct call *call = listeners;
		grpc_OOMEvent event = { .container_id = untold[0] };

		listeners = call->parked_next;
		call->cancel = NULL;
		call_reply(call, grpc_OOMEvent_fields, &event);
		free(untold[0]);
		memmove(untold, untold + 1, --untold_count * sizeof(untold[0]));
	}
}

void rpc_get_oom_event(struct call *call)
{
	call->cancel = listener_cancel;
	call->parked_next = listeners;
	listeners = call;
	oom_tell();
}

/* The number of processes that the kernel has killed in it so far. */
static uint64_t read_kills(const struct oom *oom)
{
	char text[512], *at;

	if (file_read(oom->events, text, sizeof(text)) < 0)
		return oom->kills; /* the cgroup was removed */
	at = strstr(text, "oom_kill ");
	return at ? strtoull(at + 9, NULL, 10) : 0;
}

void oom_check(struct oom *oom)
{
	uint64_t kills;

	if (!oom)
		return;
	kills = read_kills(oom);
	if (kills <= oom->kills)
		return;
	oom->kills = kills;
	if (untold_count == UNTOLD_MAX) {
		free(untold[0]);
		memmove(untold, untold + 1, --untold_count * sizeof(untold[0]));
	}
	untold[untold_count++] = xstrdup(oom->id);
	oom_tell();
}

static void events_ready(struct watch *watch, uint32_t events)
{
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	(void)events;
	while (read(watch->fd, buffer, sizeof(buffer)) > 0)
		;
	oom_check(container_of(watch, struct oom, watch));
}

struct oom *oom_watch(const char *cgroup, const char *id)
{
	struct oom *oom = xzalloc(sizeof(*oom));

	oom->events = xasprintf("%s/memory.events", cgroup);
	oom->id = xstrdup(id);
	oom->watch.ready = events_ready;
	oom->watch.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (oom->watch.fd >= 0 && inotify_add_watch(oom->watch.fd, oom->events, IN_MODIFY) >= 0 &&
	    !watch_add(&oom->watch, EPOLLIN))
		return oom;
	if (oom->watch.fd >= 0)
		close(oom->watch.fd);
	free(oom->events);
	free(oom->id);
	free(oom);
	return NULL;
}

void oom_unwatch(struct oom *oom)
{
	if (!oom)
		return;
	watch_remove(&oom->watch);
	close(oom->watch.fd);
	free(oom->events);
	free(oom->id);
	free(oom);
}
