// SPDX-License-Identifier: Apache-2.0
/* signalfd: a file that signals of its reader are read from. */
#include "calls.h"

struct signal_file {
	u64 mask;
};

/* struct signalfd_siginfo of Linux. */
struct record {
	u32 signal;
	s32 error, code;
	u32 pid, user;
	s32 fd;
	u32 tid, band, overrun, trap;
	s32 status, value;
	u64 pointer, user_time, system_time, address;
	u16 address_bits, pad;
	s32 call;
	u64 call_address;
	u32 arch;
	u8 rest[28];
};

_Static_assert(sizeof(struct record) == 128, "the size on Linux");

static struct slab signal_files = SLAB(struct signal_file);

/* Which fields a siginfo has follows from its signal and code. */
static void fill(struct record *r, const struct siginfo *info)
{
	enum { SI_TIMER = -2, SI_SIGIO = -5 };
	const u64 faults = SIGNAL_BIT(SIGSEGV) | SIGNAL_BIT(SIGBUS) | SIGNAL_BIT(SIGILL) | SIGNAL_BIT(SIGFPE) | SIGNAL_BIT(SIGTRAP);
	bool is_ours = info->code > SI_USER && info->code < SI_KERNEL;

	*r = (struct record){ .signal = (u32)info->signal, .error = info->error, .code = info->code };
	if (is_ours && SIGNAL_BIT(info->signal) & faults) {
		r->address = info->fields[0];
		return;
	}
	if (info->code == SI_TIMER) {
		r->tid = (u32)info->fields[0];
		r->overrun = (u32)(info->fields[0] >> 32);
	} else {
		r->pid = (u32)info->fields[0];
		r->user = (u32)(info->fields[0] >> 32);
	}
	if (is_ours && info->signal == SIGCHLD) {
		r->status = (s32)info->fields[1];
		r->user_time = info->fields[2];
		r->system_time = info->fields[3];
	} else if (info->code < 0 && info->code != SI_TKILL && info->code != SI_SIGIO) {
		r->value = (s32)info->fields[1];
		r->pointer = info->fields[1];
	}
}

static s64 signal_read(struct file *file, struct io *to, u64 *position)
{
	struct signal_file *data = file->data;
	struct siginfo info;
	s64 done = 0;

	(void)position;
	if (to->left < sizeof(struct record))
		return -EINVAL;
	while (to->left >= sizeof(struct record)) {
		struct record record;
		s64 error;

		if (signal_take(core.current, data->mask, &info)) {
			fill(&record, &info);
			if (io_put(to, &record, sizeof(record)) != sizeof(record))
				return done ? done : -EFAULT;
			done += (s64)sizeof(record);
			continue;
		}
		if (done)
			break;
		error = io_wait(to, file, &signal_arrived);
		if (error)
			return error;
	}
	return done;
}

static u32 signal_poll(struct file *file, struct poll *poll)
{
	const struct signal_file *data = file->data;
	const struct task *t = core.current;

	poll_wait(poll, &signal_arrived);
	return t && (t->pending.set | t->process->pending.set) & data->mask ? POLLIN : 0;
}

static void signal_release(struct file *file)
{
	slab_free(&signal_files, file->data);
}

static const struct file_operations signal_operations = {
	.read = signal_read,
	.seek = file_stay,
	.poll = signal_poll, .nowait = true,
	.release = signal_release,
};

static s64 make(struct task *t, u64 mask, u32 flags)
{
	struct signal_file *data = slab_alloc(&signal_files);
	struct file *file;
	int error;

	if (!data)
		return -ENOMEM;
	error = anonymous_file(0600, "anon_inode:[signalfd]", &signal_operations, O_RDWR | (flags & O_NONBLOCK), &file);
	if (error) {
		slab_free(&signal_files, data);
		return error;
	}
	data->mask = mask;
	file->data = data;
	return fd_install(t, file, 0, flags & O_CLOEXEC);
}

static s64 set_or_make(struct task *t, const u64 *args, u32 flags)
{
	struct file *file;
	u64 mask;

	if (args[2] != sizeof(mask))
		return -EINVAL;
	if (user_read(t->mm, &mask, args[1], sizeof(mask)))
		return -EFAULT;
	if (flags & ~(u32)(O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	mask &= ~UNBLOCKABLE;
	if ((s32)args[0] == -1)
		return make(t, mask, flags);
	file = fd_real(t, args[0]);
	if (!file)
		return -EBADF;
	if (file->operations != &signal_operations)
		return -EINVAL;
	((struct signal_file *)file->data)->mask = mask;
	wake_all(&signal_arrived);
	return (s32)args[0];
}

s64 sys_signalfd(struct task *t, const u64 *args)
{
	return set_or_make(t, args, 0);
}

s64 sys_signalfd4(struct task *t, const u64 *args)
{
	return set_or_make(t, args, (u32)args[3]);
}
