// SPDX-License-Identifier: Apache-2.0
/* pidfds: descriptors of processes. */
#include "calls.h"
#include "pidfd.h"
#include "synthetic.h"

struct process_ref {
	u32 references;
	s32 pid;
	struct process *process; /* NULL: its parent has waited for it */
	struct wait_queue ended;
};

static struct slab refs = SLAB(struct process_ref);

static struct process_ref *ref_new(s32 pid)
{
	struct process_ref *ref = slab_alloc(&refs);

	if (ref) {
		ref->references = 1;
		ref->pid = pid;
	}
	return ref;
}

void process_ref_put(struct process_ref *ref)
{
	if (reference_put(&ref->references))
		slab_free(&refs, ref);
}

void process_ref_attach(struct process_ref *ref, struct process *p)
{
	ref->process = p;
	p->ref = ref;
}

void process_ref_ended(struct process *p)
{
	if (p->ref)
		wake_all(&p->ref->ended);
}

void process_ref_gone(struct process *p)
{
	struct process_ref *ref = p->ref;

	if (!ref)
		return;
	ref->process = NULL;
	wake_all(&ref->ended);
	process_ref_put(ref);
}

/* -- the file -- */

static u32 pidfd_poll(struct file *file, struct poll *poll)
{
	struct process_ref *ref = file->data;

	poll_wait(poll, &ref->ended);
	if (!ref->process)
		return POLLIN | POLLRDNORM | POLLHUP;
	return ref->process->zombie ? POLLIN | POLLRDNORM : 0;
}

static void pidfd_release(struct file *file)
{
	process_ref_put(file->data);
}

static const struct file_operations pidfd_operations = { .seek = file_stay, .poll = pidfd_poll, .release = pidfd_release };

/* A descriptor; takes the reference. */
static s64 install(struct task *t, struct process_ref *ref, u32 flags)
{
	struct file *file;
	int error = anonymous_file(0600, "anon_inode:[pidfd]", &pidfd_operations, O_RDWR | (flags & O_NONBLOCK), &file);

	if (error) {
		process_ref_put(ref);
		return error;
	}
	file->data = ref;
	file->stream = file->odd = true;
	return fd_install(t, file, 0, true);
}

s64 pidfd_new(struct task *t, s32 pid, struct process_ref **ref)
{
	*ref = ref_new(pid);
	if (!*ref)
		return -ENOMEM;
	reference_get(&(*ref)->references);
	return install(t, *ref, 0);
}

struct process *pidfd_process(struct task *t, u64 fd, u32 *flags, s64 *error)
{
	struct file *file = fd_real(t, fd);
	struct process_ref *ref;

	*error = -EBADF;
	if (!file || file->operations != &pidfd_operations)
		return NULL;
	ref = file->data;
	*flags = file->flags;
	*error = -ESRCH;
	return ref->process;
}

/* -- system calls -- */

s64 sys_pidfd_open(struct task *t, const u64 *args)
{
	s32 pid = (s32)args[0];
	u32 flags = (u32)args[1];
	struct process *p;
	struct process_ref *ref;

	if (flags & ~(u32)(O_NONBLOCK | O_EXCL) || pid <= 0)
		return -EINVAL;
	p = process_find(t->process->pids, pid);
	if (!p)
		return task_named(t, pid) ? -EINVAL : -ESRCH;
	ref = p->ref;
	if (!ref) {
		ref = ref_new(pid);
		if (!ref)
			return -ENOMEM;
		process_ref_attach(ref, p);
	}
	reference_get(&ref->references);
	return install(t, ref, flags);
}

/* What a directory /proc/PID is about; NULL: it is another file. */
static const struct synthetic_inode *process_of_directory(const struct inode *inode)
{
	const struct synthetic_inode *node = inode->super->magic == PROC_MAGIC ? synthetic_of(inode) : NULL;

	return node && S_ISDIR(inode->mode) && node->count == process_file_count && !node->prefix_size && node->pid ? node : NULL;
}

/* The process of a pidfd, or of the directory that /proc has of one. */
static struct process *process_to_signal(struct task *t, u64 fd, s64 *error)
{
	struct file *file = fd_real(t, fd);
	const struct synthetic_inode *node = file ? process_of_directory(file->inode) : NULL;
	struct process *p;
	u32 flags;

	if (!node) {
		p = pidfd_process(t, fd, &flags, error);
	} else {
		p = process_find(node->pids, node->pid);
		*error = -ESRCH;
	}
	if (!p || p->pids == t->process->pids)
		return p;
	*error = -EINVAL; /* of another namespace, as Linux has it */
	return NULL;
}

s64 sys_pidfd_send_signal(struct task *t, const u64 *args)
{
	enum { TO_THREAD = 1, TO_PROCESS = 2, TO_GROUP = 4 };
	s32 signal = (s32)args[1];
	u32 how = (u32)args[3];
	struct siginfo info = siginfo_user(signal, SI_USER);
	struct process *p;
	s64 error;

	if (how & ~(u32)(TO_THREAD | TO_PROCESS | TO_GROUP) || how & (how - 1))
		return -EINVAL;
	p = process_to_signal(t, args[0], &error);
	if (!p && error == -EBADF)
		return error;
	if (args[2]) {
		if (user_read(t->mm, &info, args[2], sizeof(info)))
			return -EFAULT;
		p = process_to_signal(t, args[0], &error); /* the read can sleep: its parent can wait for it meanwhile */
		if (info.signal != signal)
			return -EINVAL;
		if ((p != t->process || how == TO_GROUP) && (info.code >= 0 || info.code == SI_TKILL))
			return -EPERM;
		info.pad = 0;
	}
	if (!p)
		return error;
	if (how == TO_GROUP)
		return signal_some(t, 0, p->pid, &info); /* of the group that it leads */
	if (signal < 0 || signal > SIGNALS)
		return -EINVAL;
	if (!may_signal(t, p, signal))
		return -EPERM;
	if (signal)
		signal_send_process(p, &info);
	return 0;
}

s64 sys_pidfd_getfd(struct task *t, const u64 *args)
{
	struct process *p;
	struct task *of;
	struct file *file;
	u32 flags;
	s64 error;

	if ((u32)args[2])
		return -EINVAL;
	p = pidfd_process(t, args[0], &flags, &error);
	if (!p)
		return error;
	of = list_empty(&p->tasks) ? NULL : CONTAINER(p->tasks.next, struct task, siblings);
	if (!of || !of->files)
		return -ESRCH;
	if (!may_inspect(t, of, false))
		return -EPERM;
	file = fd_file(of, args[1]);
	if (!file)
		return -EBADF;
	file_get(file);
	return fd_install(t, file, 0, true);
}
