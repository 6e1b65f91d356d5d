// SPDX-License-Identifier: Apache-2.0
/* Starts the program, and answers what it stops for until it ends. */
#include "core.h"
#include "strace.h"
#include "vfs/device.h"
#include "vfs/fds.h"
#include "fuse/fuse.h"
#include "virtio/virtio.h"

struct core core;

static void limits_init(struct process *p)
{
	enum { STACK = 3, CORE = 4, NOFILE = 7 };

	for (u32 i = 0; i < RLIMITS; i++)
		p->limits[i] = (struct rlimit){ ~0ull, ~0ull };
	p->limits[STACK].current = STACK_SIZE;
	p->limits[CORE].current = 0;
	p->limits[NOFILE] = (struct rlimit){ 1024, FDS_MOST };
}

static s64 dispatch(struct task *t, const u64 *args)
{
	u64 number = t->number;

	if (number < SYSCALLS && syscalls[number].call)
		return syscalls[number].call(t, args);
	core.unknown[number < SYSCALLS ? number : SYSCALLS - 1]++;
	return -ENOSYS;
}

static s64 dispatch_traced(struct task *t, const u64 *args)
{
	struct trace trace;
	s64 result;

	strace_enter(t, &trace, args);
	result = dispatch(t, args);
	strace_leave(t, &trace, result);
	return result;
}

static void answer(struct task *t, const struct event *event)
{
	struct regs *r = &t->regs;
	const u64 args[6] = { r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 };

	t->number = event->foreign ? SYSCALLS - 1 : r->rax & 0xffffffff; /* of which Linux takes 32 bits */
	r->rax = (u64)(core.config->strace ? dispatch_traced(t, args) : dispatch(t, args));
}

static void fault(struct task *t, const struct event *event)
{
	int error = mm_fault(t->mm, event->address, event->access, event->present);

	if (error && error != -ENOMEM)
		signal_force(t, error == -EFAULT ? SIGSEGV : SIGBUS);
}

/* A task's life in the core. */
static void task_run(void)
{
	struct task *t = core.current;
	struct event event;

	while (!t->process->ended) {
		core.ops->run(t->mm->space, &t->regs, t->fpu, sched_is_busy(), &event);
		if (event.kind == EVENT_SYSCALL)
			answer(t, &event);
		else if (event.kind == EVENT_SIGNAL)
			signal_force(t, event.signal);
		else if (event.kind == EVENT_PREEMPTED)
			task_yield();
		else
			fault(t, &event);
		if (t->mm->exhausted) {
			log_text("the sandbox is out of memory: the program is killed\n");
			signal_force(t, SIGKILL);
		}
	}
	core.exit = t->process->exit;
	sched_end();
}

static struct task *first_task(void)
{
	struct task *t = task_alloc(task_run);

	if (!t)
		return NULL;
	t->tid = PID;
	t->process = kmalloc(sizeof(*t->process));
	t->mm = mm_new(NULL);
	t->fpu = fpu_new();
	t->files = files_with_console();
	t->fs = fs_new();
	t->sighand = kmalloc(sizeof(*t->sighand));
	if (!t->process || !t->mm || !t->files || !t->fs || !t->sighand || !t->fpu)
		return NULL;
	t->process->pid = PID;
	t->sighand->users = 1;
	limits_init(t->process);
	return t;
}

/* TODO: exec from a file takes its place. */
static const char *load_from_root(struct mm *mm, const char *name, struct image *image)
{
	const char *why = "not found in the root";
	struct path path;
	struct file *file;
	u64 size;
	u8 *data;

	if (path_lookup(name, WALK_FOLLOW, &path))
		return why;
	size = path.dentry->inode->size;
	data = kmalloc(size);
	if (data && !file_open(&path, O_RDONLY, &file)) {
		if (file_read_core(file, data, size, 0) == (s64)size)
			why = elf_load(mm, data, size, image);
		file_put(file);
	}
	kfree(data);
	path_put(&path);
	return why;
}

const char *core_start(const struct core_config *config)
{
	struct image image;
	struct task *t;
	const char *error;

	bytes_zero(&core, sizeof(core));
	core.config = config;
	core.ops = config->ops;
	sched_init();
	slab_init();
	if (ram_init(config))
		return "the sandbox has too little memory";
	virtio_init(config);
	if (!config->program && !config->root && !fuse_root)
		return "there is neither a program (initrd) nor a directory for the root (share)";
	error = root_init(config);
	if (error)
		return error;
	t = first_task();
	if (!t)
		return "the sandbox has too little memory";
	error = config->program ? elf_load(t->mm, config->program, config->program_size, &image)
				: load_from_root(t->mm, config->path, &image);
	if (error)
		return error;
	error = stack_build(t->mm, &image, &t->regs.rsp);
	if (error)
		return error;
	t->mm->heap = t->mm->brk = image.end;
	t->regs.rip = image.entry;
	task_ready(t);
	return NULL;
}

struct core_exit core_run(void)
{
	sched_run();
	if (core.config->strace)
		strace_unknown();
	return core.exit;
}
