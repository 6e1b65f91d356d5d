// SPDX-License-Identifier: Apache-2.0
/* The namespaces of containers, and the end of those of processes. */
#include "space.h"

#include "control/container.h"
#include "core.h"

static struct {
	struct space sandbox[SPACES];
	u32 last;
} spaces;

static const struct utsname usual_names = { "Linux", "sentry", "6.12.0-pyvmm", "#1 pyvmm Sentry", "x86_64", "(none)" };

void spaces_init(void)
{
	sysctls_init();
	bytes_zero(&spaces, sizeof(spaces));
	for (u32 i = 0; i < SPACES; i++) {
		spaces.sandbox[i].kind = (enum space_kind)i;
		spaces.sandbox[i].references = REFERENCES_SATURATED;
		spaces.sandbox[i].names = usual_names;
		sysctls_init_ipc(&spaces.sandbox[i].ipc);
	}
}

struct space *space_of_sandbox(enum space_kind kind)
{
	return &spaces.sandbox[kind];
}

struct space *space_new(enum space_kind kind)
{
	struct space *space = kmalloc(sizeof(*space));

	if (!space)
		return NULL;
	space->references = 1;
	space->number = ++spaces.last;
	space->kind = kind;
	space->names = space_of_sandbox(SPACE_UTS)->names;
	sysctls_init_ipc(&space->ipc);
	return space;
}

struct space *space_get(struct space *space)
{
	reference_get(&space->references);
	return space;
}

void space_put(struct space *space)
{
	if (!reference_put(&space->references))
		return;
	ipc_free(&space->ipc);
	kfree(space);
}

struct space *space_of(const struct process *p, enum space_kind kind)
{
	return p->container ? p->container->spaces[kind] : space_of_sandbox(kind);
}

bool process_is_init(const struct process *p)
{
	return p->pid == 1 && p->pids != SANDBOX_PIDS;
}

void space_end(struct process *init)
{
	space_of(init, SPACE_PID)->pids.ended = true;
	EACH_PROCESS(p)
		if (p->pids == init->pids && p != init && !p->zombie)
			process_end(p, SIGKILL);
}
