// SPDX-License-Identifier: Apache-2.0
/* O_ASYNC: a signal to the owner of an open file when it becomes ready. */
#include "async.h"

#include "calls.h"

enum { POLL_IN = 1, POLL_OUT = 2, POLL_ERR = 4, BAND_OUT = 0x304 };

struct async {
	struct standing_poll poll;
	struct file *file; /* borrowed: this goes when the file does */
	u32 fd;
};

struct owner_ex {
	s32 type, pid;
};

static struct slab asyncs = SLAB(struct async);

/* -- sending -- */

static bool may_send(const struct file_owner *owner, const struct cred *to)
{
	return !owner->effective || owner->effective == to->user.saved || owner->effective == to->user.real ||
	       owner->user == to->user.saved || owner->user == to->user.real;
}

/* Why a file is ready, as SIGIO reports it; 0: it is not. Linux reports the close of a unix socket as POLL_HUP. */
static u32 reason_of(u32 events)
{
	if (events & (POLLIN | POLLHUP))
		return POLL_IN;
	return events & POLLOUT ? POLL_OUT : events & POLLERR ? POLL_ERR : 0;
}

static u64 band_of(u32 reason)
{
	return reason == POLL_IN ? POLLIN | POLLRDNORM : reason == POLL_OUT ? BAND_OUT : POLLERR;
}

static void notify(struct waiter *waiter)
{
	const struct async *async = waiter->data;
	const struct file_owner *owner = &async->file->owner;
	u32 reason = reason_of(file_poll(async->file, NULL));
	struct siginfo info = { .signal = SIGIO, .code = SI_KERNEL };

	if (!reason || !owner->pid)
		return;
	if (async->file->signal)
		info = (struct siginfo){ .signal = async->file->signal, .code = (s32)reason, .fields = { band_of(reason), async->fd } };
	if (owner->type == OWNER_TASK) {
		struct task *t = task_find(owner->pids, owner->pid);

		if (t && may_send(owner, &t->cred))
			signal_send_task(t, &info);
		return;
	}
	EACH_PROCESS(p)
		if (p->pids == owner->pids && (owner->type == OWNER_PROCESS ? p->pid : p->group) == owner->pid && may_send(owner, cred_of(p)))
			signal_send_process(p, &info);
}

/* -- on and off -- */

void async_stop(struct file *file)
{
	struct async *async = file->async;

	if (!async)
		return;
	poll_stop(&async->poll);
	file->async = NULL;
	slab_free(&asyncs, async);
}

static s64 start(struct file *file, u32 fd)
{
	struct async *async = slab_alloc(&asyncs);

	if (!async)
		return -ENOMEM;
	async->file = file;
	async->fd = fd;
	file->async = async;
	(void)poll_start(&async->poll, file, notify, async);
	return 0;
}

s64 async_set(struct file *file, u32 fd, bool on)
{
	s64 error = 0;

	if (on == !!(file->flags & FASYNC))
		return 0;
	if (!file->operations->async)
		return -ENOTTY;
	if (on)
		error = start(file, fd);
	else
		async_stop(file);
	if (!error)
		file->flags ^= FASYNC;
	return error;
}

/* -- owners -- */

/* Also whether the caller sees it. */
static bool is_there(u32 pids, u32 type, s32 pid)
{
	if (pids != core.current->process->pids)
		return false;
	if (type == OWNER_TASK)
		return task_find(pids, pid);
	EACH_PROCESS(p)
		if (p->pids == pids && (type == OWNER_PROCESS ? p->pid : p->group) == pid)
			return true;
	return false;
}

static s64 set(struct file *file, u32 type, s32 pid)
{
	const struct ids *user = &core.current->cred.user;
	u32 pids = core.current->process->pids;

	if (pid && !is_there(pids, type, pid))
		return -ESRCH;
	file->owner = (struct file_owner){ pid, pids, type, user->real, user->effective };
	return 0;
}

s64 owner_set(struct file *file, s32 pid)
{
	if (pid == -2147483647 - 1)
		return -EINVAL;
	return pid < 0 ? set(file, OWNER_GROUP, -pid) : set(file, OWNER_PROCESS, pid);
}

/* A task, process or group with the number of one that ended counts as the same. */
s32 owner_get(const struct file *file)
{
	const struct file_owner *owner = &file->owner;

	if (!owner->pid || !is_there(owner->pids, owner->type, owner->pid))
		return 0;
	return owner->type == OWNER_GROUP ? -owner->pid : owner->pid;
}

s64 owner_set_ex(struct file *file, u64 from)
{
	struct owner_ex owner;

	if (user_read(core.current->mm, &owner, from, sizeof(owner)))
		return -EFAULT;
	return (u32)owner.type > OWNER_GROUP ? -EINVAL : set(file, (u32)owner.type, owner.pid);
}

s64 owner_get_ex(const struct file *file, u64 to)
{
	s32 pid = owner_get(file);
	const struct owner_ex owner = { (s32)file->owner.type, pid < 0 ? -pid : pid };

	return user_write(core.current->mm, to, &owner, sizeof(owner));
}
