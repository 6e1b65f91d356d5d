// SPDX-License-Identifier: Apache-2.0
/* The `process` of a container's specification: arguments, user, rights and limits. */
#include "../id_map.h"
#include "container.h"

#include "../slab.h"
#include "../vfs/fds.h"

enum { GROUPS_MOST = 4096 };

static const char *const capabilities[] = {
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
};

_Static_assert(ARRAY_SIZE(capabilities) == CAP_LAST + 1, "each has a name");

static const char *const limits[RLIMITS] = {
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE",
	"NICE", "RTPRIO", "RTTIME",
};

/* The index of a name behind its prefix; `count`: there is none. */
static u32 find(const struct reader *name, const char *prefix, const char *const *names, u32 count)
{
	struct reader rest = *name;
	u64 size = string_size(prefix);
	u32 i = 0;

	if (reader_size(name) < size || !bytes_equal(name->at, prefix, size))
		return count;
	rest.at += size;
	while (i < count && !reader_is(&rest, names[i]))
		i++;
	return i;
}

static s64 add_text(struct arguments *a, const struct reader *text)
{
	char *copy = reader_text(text);
	s64 error = copy ? argument_add(a, copy, reader_size(text) + 1) : -EINVAL;

	kfree(copy);
	return error;
}

/* A packed field: numbers in a row, without keys. */
static u32 take_packed(struct reader r, u32 *to, u32 room)
{
	u32 count = 0;

	while (r.at < r.end && count < room) {
		u64 value = reader_number(&r);

		if (r.broken)
			return count;
		to[count++] = (u32)value;
	}
	return count;
}

static s64 read_groups(struct reader user, struct cred *cred)
{
	u64 most = reader_size(&user) < GROUPS_MOST ? reader_size(&user) : GROUPS_MOST; /* each has a byte at least */
	struct groups *groups = kmalloc(sizeof(*groups) + most * sizeof(u32));
	struct field field;

	if (!groups)
		return -ENOMEM;
	groups->references = 1;
	while (field_next(&user, &field)) {
		if (field.number != User_AdditionalGids)
			continue;
		if (field.bytes.at < field.bytes.end)
			groups->count += take_packed(field.bytes, groups->ids + groups->count, (u32)most - groups->count);
		else if (groups->count < most)
			groups->ids[groups->count++] = (u32)field.value;
	}
	groups_sort(groups);
	cred->groups = groups;
	return 0;
}

static s64 read_user(struct reader user, struct program *program)
{
	struct cred *cred = &program->cred;
	const struct cred old = *cred;
	struct reader r = user;
	struct field field;
	u32 ids[2] = { 0, 0 };

	while (field_next(&r, &field)) {
		if (field.number == User_UID)
			ids[0] = (u32)field.value;
		else if (field.number == User_GID)
			ids[1] = (u32)field.value;
		else if (field.number == User_Umask)
			program->umask = field.value & 0777;
	}
	cred_init(cred, ids[0], ids[1]);
	kfree(old.groups);
	return read_groups(user, cred);
}

static void read_capabilities(struct reader r, struct cred *cred)
{
	struct field field;

	cred->bounding = cred->effective = cred->inheritable = cred->permitted = cred->ambient = 0;
	while (field_next(&r, &field)) {
		u32 number = find(&field.bytes, "CAP_", capabilities, ARRAY_SIZE(capabilities));
		u64 bit = number < ARRAY_SIZE(capabilities) ? CAPABILITY(number) : 0; /* newer ones are ignored */

		switch (field.number) {
		case LinuxCapabilities_Bounding: cred->bounding |= bit; break;
		case LinuxCapabilities_Effective: cred->effective |= bit; break;
		case LinuxCapabilities_Inheritable: cred->inheritable |= bit; break;
		case LinuxCapabilities_Permitted: cred->permitted |= bit; break;
		case LinuxCapabilities_Ambient: cred->ambient |= bit; break;
		}
	}
	cred->ambient &= cred->permitted & cred->inheritable;
}

static s64 read_limit(struct reader r, struct program *program)
{
	struct rlimit limit = { 0, 0 };
	u32 which = RLIMITS;
	struct field field;

	while (field_next(&r, &field))
		switch (field.number) {
		case POSIXRlimit_Type: which = find(&field.bytes, "RLIMIT_", limits, RLIMITS); break;
		case POSIXRlimit_Hard: limit.maximum = field.value; break;
		case POSIXRlimit_Soft: limit.current = field.value; break;
		}
	if (which == RLIMITS || limit.current > limit.maximum || program->limited & 1u << which)
		return -EINVAL;
	if (which == RLIMIT_NOFILE) { /* a program could not set a larger one again */
		limit.current = limit.current < FDS_MOST ? limit.current : FDS_MOST;
		limit.maximum = limit.maximum < FDS_MOST ? limit.maximum : FDS_MOST;
	}
	program->limits[which] = limit;
	program->limited |= 1u << which;
	return 0;
}

static void read_size(struct reader r, struct winsize *size)
{
	struct field field;

	while (field_next(&r, &field)) {
		if (field.number == Box_Height)
			size->rows = (u16)field.value;
		else if (field.number == Box_Width)
			size->columns = (u16)field.value;
	}
}

static s64 read_field(struct program *program, const struct field *field)
{
	switch (field->number) {
	case Process_Terminal: program->terminal = field->value; return 0;
	case Process_ConsoleSize: read_size(field->bytes, &program->size); return 0;
	case Process_User: return read_user(field->bytes, program);
	case Process_Cwd:
		kfree(program->directory);
		program->directory = reader_text(&field->bytes);
		return program->directory ? 0 : -EINVAL;
	case Process_Rlimits: return read_limit(field->bytes, program);
	case Process_OOMScoreAdj: program->oom_adjustment = (s32)field->value; return 0;
	case Process_NoNewPrivileges: program->no_new_privs = field->value; return 0;
	case Process_Args: program->arguments.argc++; return add_text(&program->arguments, &field->bytes);
	}
	return 0;
}

/* Whether all its users and groups are in the user namespace. */
static bool is_inside(const struct cred *cred)
{
	bool inside = id_map_has(&id_maps.users, cred->user.real) && id_map_has(&id_maps.groups, cred->group.real);

	for (u32 i = 0; inside && cred->groups && i < cred->groups->count; i++)
		inside = id_map_has(&id_maps.groups, cred->groups->ids[i]);
	return inside;
}

s64 program_read(struct call *call, struct reader message, struct program *program)
{
	struct reader r = message;
	struct field field;
	s64 error = 0;

	*program = (struct program){ .umask = 022 };
	cred_init(&program->cred, 0, 0);
	while (!error && field_next(&r, &field))
		error = read_field(program, &field);
	for (r = message; !error && field_next(&r, &field);) /* behind all arguments */
		if (field.number == Process_Env) {
			program->arguments.envc++;
			error = add_text(&program->arguments, &field.bytes);
		}
	read_capabilities(reader_part(message, Process_Capabilities), &program->cred); /* they depend on the user */
	if (!error && (r.broken || !program->arguments.argc))
		error = -EINVAL;
	if (!error && is_inside(&program->cred))
		return 0;
	program_free(program);
	if (!error)
		return call_fail(call, STATUS_INVALID_ARGUMENT, "process.user: no map of the user namespace has these ids", NULL,
				 NULL) - EINVAL;
	call_fail(call, STATUS_INVALID_ARGUMENT, "the process of the specification: ", error_text(error), NULL);
	return -EINVAL;
}

void program_free(struct program *program)
{
	kfree(program->arguments.texts);
	kfree(program->directory);
	cred_free(&program->cred);
	*program = (struct program){ .limited = 0 };
}
