// SPDX-License-Identifier: Apache-2.0
/* The namespaces of a container: new, those of another container of the sandbox, or the sandbox's own. */
#include "container.h"

#include "../sysctl.h"
#include "../vfs/process_file.h"

#define JOIN "container:" /* before an id, as the path of a namespace: pyvmm_kata/host/namespaces.py */

static const char *const kinds[SPACES] = { [SPACE_PID] = "pid", [SPACE_IPC] = "ipc", [SPACE_UTS] = "uts" };

void namespaces_init(struct container *container)
{
	for (u32 i = 0; i < SPACES; i++)
		container->spaces[i] = space_get(space_of_sandbox((enum space_kind)i));
}

void namespaces_put(struct container *container)
{
	for (u32 i = 0; i < SPACES; i++)
		space_put(container->spaces[i]);
}

/* That of another container, with a reference; NULL: the call fails. */
static struct space *space_named(struct call *call, struct reader path, enum space_kind kind)
{
	const u64 size = sizeof(JOIN) - 1;
	struct container *other = NULL;

	if (reader_size(&path) > size && bytes_equal(path.at, JOIN, size)) {
		path.at += size;
		other = container_find(&path);
	}
	if (!other) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "linux.namespaces: no container has the ", kinds[kind], " namespace");
		return NULL;
	}
	if (other->spaces[kind]->pids.ended) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "linux.namespaces: process 1 of the pid namespace has ended", NULL,
			  NULL);
		return NULL;
	}
	return space_get(other->spaces[kind]);
}

static s64 enter(struct call *call, struct container *container, struct reader message)
{
	const struct reader type = reader_part(message, LinuxNamespace_Type), path = reader_part(message, LinuxNamespace_Path);

	for (u32 i = 0; i < SPACES; i++) {
		struct space *space;

		if (!reader_is(&type, kinds[i]))
			continue;
		space = reader_size(&path) ? space_named(call, path, (enum space_kind)i) : space_new((enum space_kind)i);
		if (!space)
			return call->status == STATUS_OK ? -ENOMEM : -EINVAL;
		space_put(container->spaces[i]);
		container->spaces[i] = space;
	}
	return 0;
}

/* Of the others, a container has its own mounts and the sandbox's network. */
s64 namespaces_read(struct call *call, struct container *container, struct reader spec)
{
	struct reader linux_part = reader_part(spec, Spec_Linux), r = call->request;
	struct field field;
	s64 error = 0;

	while (!error && field_next(&linux_part, &field))
		if (field.number == Linux_Namespaces)
			error = enter(call, container, field.bytes);
	while (!error && field_next(&r, &field))
		if (field.number == CreateContainerRequest_sandbox_pidns && field.value) {
			space_put(container->spaces[SPACE_PID]);
			container->spaces[SPACE_PID] = space_get(space_of_sandbox(SPACE_PID));
		}
	return error;
}

/* -- kernel parameters -- */

static s64 set_parameter(struct call *call, struct container *container, const char *name, const char *value)
{
	s64 error;

	if (strings_equal(name, "kernel.domainname")) {
		system_set_domainname(container->spaces[SPACE_UTS], value);
		return 0;
	}
	error = sysctl_set(&container->spaces[SPACE_IPC]->ipc, name, value);
	if (error == -ENOENT)
		return call_fail(call, STATUS_INVALID_ARGUMENT, "linux.sysctl: a Sentry has no ", name, NULL) - EINVAL;
	return error ? call_fail(call, STATUS_INVALID_ARGUMENT, "linux.sysctl: invalid value of ", name, NULL) - EINVAL : 0;
}

s64 parameters_read(struct call *call, struct container *container, struct reader spec)
{
	struct reader linux_part = reader_part(spec, Spec_Linux);
	struct field field;
	s64 error = 0;

	while (!error && field_next(&linux_part, &field)) {
		const struct reader key = reader_part(field.bytes, 1), data = reader_part(field.bytes, 2);
		char *name, *value;

		if (field.number != Linux_Sysctl)
			continue;
		name = reader_text(&key);
		value = reader_text(&data);
		error = name && value ? set_parameter(call, container, name, value) : -EINVAL;
		kfree(name);
		kfree(value);
	}
	return error;
}
