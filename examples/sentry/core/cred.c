// SPDX-License-Identifier: Apache-2.0
/* Credentials: what a task may do, and how that changes with its users and programs. */
#include "id_map.h"
#include "ptrace.h"
#include "vfs/vfs.h"

/* Capabilities that follow the user of file system calls. */
#define FILE_CAPABILITIES                                                                                         \
	(CAPABILITY(CAP_CHOWN) | CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH) |                 \
	 CAPABILITY(CAP_FOWNER) | CAPABILITY(CAP_FSETID) | CAPABILITY(CAP_LINUX_IMMUTABLE) | CAPABILITY(CAP_MKNOD) | \
	 CAPABILITY(CAP_MAC_OVERRIDE))

void cred_init(struct cred *cred, u32 user, u32 group)
{
	*cred = (struct cred){
		.user = { user, user, user, user }, .group = { group, group, group, group }, .bounding = ALL_CAPABILITIES,
	};
	if (!user)
		cred->permitted = cred->effective = ALL_CAPABILITIES;
}

void cred_copy(struct cred *cred, const struct cred *from)
{
	*cred = *from;
	if (cred->groups)
		reference_get(&cred->groups->references);
}

void cred_free(struct cred *cred)
{
	if (cred->groups && reference_put(&cred->groups->references))
		kfree(cred->groups);
	cred->groups = NULL;
}

bool cred_capable(const struct cred *cred, u32 capability)
{
	return cred->effective & CAPABILITY(capability);
}

bool capable(u32 capability)
{
	return core.current ? cred_capable(&core.current->cred, capability) : !core.config->user;
}

bool cred_in_group(const struct cred *cred, u32 group, u32 own)
{
	const struct groups *groups = cred->groups;
	u32 low = 0, high = groups ? groups->count : 0;

	if (group == own)
		return true;
	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (groups->ids[middle] == group)
			return true;
		if (groups->ids[middle] < group)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

const struct cred *cred_of(const struct process *p)
{
	return list_empty(&p->tasks) ? &p->last_cred : &CONTAINER(p->tasks.next, struct task, siblings)->cred;
}

/* -- changes -- */

static bool is_any(const struct ids *ids, u32 id)
{
	return ids->real == id || ids->effective == id || ids->saved == id;
}

/* A change to or from user 0 gains or drops capabilities, unless securebits prevent it. */
static void follow_user(const struct cred *old, struct cred *new)
{
	if (old->securebits & SECURE_NO_SETUID_FIXUP)
		return;
	if (is_any(&old->user, 0) && !is_any(&new->user, 0)) {
		if (!(old->securebits & SECURE_KEEP_CAPS))
			new->permitted = new->effective = 0;
		new->ambient = 0;
	}
	if (!old->user.effective && new->user.effective)
		new->effective = 0;
	if (old->user.effective && !new->user.effective)
		new->effective = new->permitted;
}

static void follow_fs_user(const struct cred *old, struct cred *new)
{
	if (old->securebits & SECURE_NO_SETUID_FIXUP)
		return;
	if (!old->user.fs && new->user.fs)
		new->effective &= ~FILE_CAPABILITIES;
	if (old->user.fs && !new->user.fs)
		new->effective |= FILE_CAPABILITIES & new->permitted;
}

void cred_change(struct task *t, const struct cred *new)
{
	const struct cred *old = &t->cred;

	if (old->user.effective != new->user.effective || old->user.fs != new->user.fs ||
	    old->group.effective != new->group.effective || old->group.fs != new->group.fs ||
	    new->permitted & ~old->permitted) {
		t->mm->secret = true;
		t->death_signal = 0;
	}
	t->cred = *new;
}

/* -- programs -- */

void cred_use_real(struct cred *cred)
{
	cred->user.fs = cred->user.real;
	cred->group.fs = cred->group.real;
	if (!(cred->securebits & SECURE_NO_SETUID_FIXUP))
		cred->effective = cred->user.real ? 0 : cred->permitted;
}

/* Whether a program may not gain rights: no_new_privs is set, another process shares its directories, or it is traced. */
static bool is_unsafe(const struct task *t)
{
	return t->no_new_privs || (t->tracee && !t->tracee->capable) || (t->fs->references > t->process->task_count);
}

static void take_file_ids(const struct task *t, const struct inode *inode, const struct mount *mount, struct cred *new)
{
	if (mount->flags & MS_NOSUID || t->no_new_privs || inode->user == NO_ID || inode->group == NO_ID)
		return;
	if (inode->mode & S_ISUID)
		new->user.effective = inode->user;
	if ((inode->mode & (S_ISGID | 010)) == (S_ISGID | 010))
		new->group.effective = inode->group;
}

bool cred_exec(const struct task *t, const struct inode *inode, const struct mount *mount, struct cred *new)
{
	const struct cred *old = &t->cred;
	bool effective = false, changes;

	*new = *old;
	take_file_ids(t, inode, mount, new);
	new->permitted = 0;
	if (!(old->securebits & SECURE_NOROOT)) {
		if (!new->user.effective || !new->user.real)
			new->permitted = old->bounding | old->inheritable;
		effective = !new->user.effective;
	}
	changes = new->user.effective != old->user.real || new->group.effective != old->group.real;
	if ((changes || new->permitted & ~old->permitted) && is_unsafe(t)) {
		if (!cred_capable(old, CAP_SETUID) || t->no_new_privs) {
			new->user.effective = new->user.real;
			new->group.effective = new->group.real;
		}
		new->permitted &= old->permitted;
	}
	new->user.saved = new->user.fs = new->user.effective;
	new->group.saved = new->group.fs = new->group.effective;
	if (changes)
		new->ambient = 0;
	new->permitted |= new->ambient;
	new->effective = effective ? new->permitted : new->ambient;
	new->securebits &= ~(u32)SECURE_KEEP_CAPS;
	return changes || (new->user.real && (effective || new->permitted & ~new->ambient));
}

/* -- rights on others -- */

bool may_signal(const struct task *from, const struct process *to, int signal)
{
	const struct cred *mine = &from->cred, *other = cred_of(to);

	if (from->process == to || (signal == SIGCONT && same_session(from->process, to)))
		return true;
	if (mine->user.effective == other->user.saved || mine->user.effective == other->user.real ||
	    mine->user.real == other->user.saved || mine->user.real == other->user.real)
		return true;
	return cred_capable(mine, CAP_KILL);
}

static bool are_all(const struct ids *ids, u32 id)
{
	return ids->real == id && ids->effective == id && ids->saved == id;
}

bool may_limit(const struct task *from, const struct process *to)
{
	const struct cred *mine = &from->cred, *other = cred_of(to);

	return from->process == to || cred_capable(mine, CAP_SYS_RESOURCE) ||
	       (are_all(&other->user, mine->user.real) && are_all(&other->group, mine->group.real));
}

bool may_inspect(const struct task *from, const struct task *to, bool fs)
{
	const struct cred *mine = &from->cred, *other = &to->cred;

	if (from->process == to->process || cred_capable(mine, CAP_SYS_PTRACE))
		return true;
	if (!are_all(&other->user, fs ? mine->user.fs : mine->user.real) ||
	    !are_all(&other->group, fs ? mine->group.fs : mine->group.real))
		return false;
	return (!to->mm || !to->mm->secret) && !(other->permitted & ~(fs ? mine->effective : mine->permitted));
}

/* -- system calls for users and groups -- */

/* Whether all ids that an argument names, which leaves NO_ID as it is, are in the user namespace. */
static bool are_mapped(const struct id_map *map, const u64 *args, u32 count)
{
	for (u32 i = 0; i < count; i++)
		if ((u32)args[i] != NO_ID && !id_map_has(map, (u32)args[i]))
			return false;
	return true;
}

static s64 set_id(const struct id_map *map, struct ids *ids, u32 id, bool privileged)
{
	if (!id_map_has(map, id))
		return -EINVAL;
	if (privileged)
		ids->real = ids->saved = id;
	else if (id != ids->real && id != ids->saved)
		return -EPERM;
	ids->effective = ids->fs = id;
	return 0;
}

static s64 set_two(const struct id_map *map, struct ids *ids, const u64 *args, bool privileged)
{
	const u32 real = (u32)args[0], effective = (u32)args[1];
	const struct ids old = *ids;

	if (!are_mapped(map, args, 2))
		return -EINVAL;
	if (real != NO_ID && !privileged && real != old.real && real != old.effective)
		return -EPERM;
	if (effective != NO_ID && !privileged && !is_any(&old, effective))
		return -EPERM;
	if (real != NO_ID)
		ids->real = real;
	if (effective != NO_ID)
		ids->effective = effective;
	if (real != NO_ID || (effective != NO_ID && effective != old.real))
		ids->saved = ids->effective;
	ids->fs = ids->effective;
	return 0;
}

static s64 set_three(const struct id_map *map, struct ids *ids, const u64 *args, bool privileged)
{
	const struct ids old = *ids;
	u32 *const places[] = { &ids->real, &ids->effective, &ids->saved };

	if (!are_mapped(map, args, 3))
		return -EINVAL;
	for (u32 i = 0; i < 3; i++) {
		u32 id = (u32)args[i];

		if (id == NO_ID)
			continue;
		if (!privileged && !is_any(&old, id))
			return -EPERM;
		*places[i] = id;
	}
	if (ids->real == old.real && ids->saved == old.saved &&
	    ((u32)args[1] == NO_ID || ((u32)args[1] == old.effective && old.effective == old.fs)))
		return 0; /* nothing changes, not even fs */
	ids->fs = ids->effective;
	return 0;
}

static s64 change_user(struct task *t, struct cred *new, s64 error)
{
	if (error)
		return error;
	follow_user(&t->cred, new);
	cred_change(t, new);
	return 0;
}

static s64 change_group(struct task *t, struct cred *new, s64 error)
{
	if (!error)
		cred_change(t, new);
	return error;
}

s64 sys_setuid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_user(t, &new, set_id(&id_maps.users, &new.user, (u32)args[0], capable(CAP_SETUID)));
}

s64 sys_setgid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_group(t, &new, set_id(&id_maps.groups, &new.group, (u32)args[0], capable(CAP_SETGID)));
}

s64 sys_setreuid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_user(t, &new, set_two(&id_maps.users, &new.user, args, capable(CAP_SETUID)));
}

s64 sys_setregid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_group(t, &new, set_two(&id_maps.groups, &new.group, args, capable(CAP_SETGID)));
}

s64 sys_setresuid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_user(t, &new, set_three(&id_maps.users, &new.user, args, capable(CAP_SETUID)));
}

s64 sys_setresgid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;

	return change_group(t, &new, set_three(&id_maps.groups, &new.group, args, capable(CAP_SETGID)));
}

s64 sys_setfsuid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;
	u32 old = new.user.fs, id = (u32)args[0];

	if (!id_map_has(&id_maps.users, id) || (!is_any(&new.user, id) && id != old && !capable(CAP_SETUID)))
		return old;
	new.user.fs = id;
	follow_fs_user(&t->cred, &new);
	cred_change(t, &new);
	return old;
}

s64 sys_setfsgid(struct task *t, const u64 *args)
{
	struct cred new = t->cred;
	u32 old = new.group.fs, id = (u32)args[0];

	if (!id_map_has(&id_maps.groups, id) || (!is_any(&new.group, id) && id != old && !capable(CAP_SETGID)))
		return old;
	new.group.fs = id;
	cred_change(t, &new);
	return old;
}

s64 sys_getuid(struct task *t, const u64 *args)
{
	(void)args;
	return t->cred.user.real;
}

s64 sys_geteuid(struct task *t, const u64 *args)
{
	(void)args;
	return t->cred.user.effective;
}

s64 sys_getgid(struct task *t, const u64 *args)
{
	(void)args;
	return t->cred.group.real;
}

s64 sys_getegid(struct task *t, const u64 *args)
{
	(void)args;
	return t->cred.group.effective;
}

static s64 put_three(struct task *t, const u64 *args, const struct ids *ids)
{
	const u32 values[] = { ids->real, ids->effective, ids->saved };

	for (u32 i = 0; i < 3; i++)
		if (user_write(t->mm, args[i], &values[i], sizeof(u32)))
			return -EFAULT;
	return 0;
}

s64 sys_getresuid(struct task *t, const u64 *args)
{
	return put_three(t, args, &t->cred.user);
}

s64 sys_getresgid(struct task *t, const u64 *args)
{
	return put_three(t, args, &t->cred.group);
}

/* -- supplementary groups -- */

s64 sys_getgroups(struct task *t, const u64 *args)
{
	const struct groups *groups = t->cred.groups;
	s32 count = groups ? (s32)groups->count : 0, room = (s32)args[0];

	if (room < 0 || (room && room < count))
		return -EINVAL;
	if (room && count && user_write(t->mm, args[1], groups->ids, (u64)count * sizeof(u32)))
		return -EFAULT;
	return count;
}

/* Heapsort: there may be 65,536 groups. */
void groups_sort(struct groups *groups)
{
	u32 *ids = groups->ids;

	for (u32 start = groups->count / 2, end = groups->count; end > 1;) {
		u32 root, value;

		if (start) {
			value = ids[--start];
		} else {
			value = ids[--end];
			ids[end] = ids[0];
		}
		root = start;
		for (u32 child = 2 * root + 1; child < end; child = 2 * root + 1) {
			if (child + 1 < end && ids[child + 1] > ids[child])
				child++;
			if (ids[child] <= value)
				break;
			ids[root] = ids[child];
			root = child;
		}
		ids[root] = value;
	}
}

s64 sys_setgroups(struct task *t, const u64 *args)
{
	enum { MOST = 65536 };
	u32 count = (u32)args[0];
	struct cred new = t->cred;

	if (!capable(CAP_SETGID))
		return -EPERM;
	if (count > MOST)
		return -EINVAL;
	new.groups = count ? kmalloc(sizeof(*new.groups) + count * sizeof(u32)) : NULL;
	if (count && !new.groups)
		return -ENOMEM;
	if (count && user_read(t->mm, new.groups->ids, args[1], count * sizeof(u32))) {
		kfree(new.groups);
		return -EFAULT;
	}
	for (u32 i = 0; i < count; i++) {
		if (!id_map_has(&id_maps.groups, new.groups->ids[i])) {
			kfree(new.groups);
			return -EINVAL;
		}
	}
	if (count) {
		new.groups->references = 1;
		new.groups->count = count;
		groups_sort(new.groups);
	}
	cred_free(&t->cred);
	cred_change(t, &new);
	return 0;
}
