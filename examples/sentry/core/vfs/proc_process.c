// SPDX-License-Identifier: Apache-2.0
/* Files of /proc about one process. */
#include "../filters.h"
#include "../tty/tty.h"
#include "../vdso.h"
#include "caller.h"
#include "fds.h"
#include "../net/proc_net.h"
#include "process_file.h"
#include "../ptrace.h"

struct task *process_task(const struct synthetic_inode *node)
{
	struct task *t = task_find(node->pids, node->pid);
	struct process *p = t ? NULL : process_find(node->pids, node->pid);

	return p && !list_empty(&p->tasks) ? CONTAINER(p->tasks.next, struct task, siblings) : t;
}

void process_owner(struct inode *inode)
{
	const struct task *t = process_task(synthetic_of(inode));
	bool shown = t && ((inode->mode & (S_IFMT | 0777)) == (S_IFDIR | 0555) || !t->mm || !t->mm->secret);

	inode->user = shown ? t->cred.user.effective : 0;
	inode->group = shown ? t->cred.group.effective : 0;
}

static const char *state_of(const struct task *t)
{
	if (t->tracee && t->tracee->stopped)
		return "t (tracing stop)";
	if (t->process->stopped)
		return "T (stopped)";
	return t->state == TASK_SLEEPING ? "S (sleeping)" : "R (running)";
}

static struct task *task_of(const struct synthetic_inode *node)
{
	return process_task(node);
}

/* -- memory -- */

static void put_permissions(struct text *text, const struct vma *vma)
{
	text_put(text, vma->prot & PROT_READ ? "r" : "-");
	text_put(text, vma->prot & PROT_WRITE ? "w" : "-");
	text_put(text, vma->prot & PROT_EXEC ? "x" : "-");
	text_put(text, vma->flags & VMA_SHARED ? "s" : "p");
}

/* The name of a mapping, from column 73 on. */
static void put_name(struct text *text, const struct mm *mm, const struct vma *vma, u64 line)
{
	const char *vdso = vdso_name(vma);
	char *name = page_alloc();
	s64 size = 0;

	if (!name)
		return;
	if (vma->file)
		size = path_show(&vma->file->path, name, PAGE);
	else if (vma->start <= mm->brk && vma->end > mm->heap && mm->heap)
		bytes_copy(name, "[heap]", (u64)(size = 6));
	else if (vma->end == USER_TOP)
		bytes_copy(name, "[stack]", (u64)(size = 7));
	else if (vdso)
		bytes_copy(name, vdso, (u64)(size = (s64)string_size(vdso)));
	while (size > 0 && text->size - line < 73 && !text->failed)
		text_put(text, " ");
	if (size > 0)
		text_bytes(text, name, (u64)size);
	page_free(name);
}

static void write_maps(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);

	for (u32 i = 0; t && t->mm && i < t->mm->count; i++) {
		const struct vma *vma = &t->mm->vmas[i];
		const struct inode *inode = vma->file ? vma->file->inode : NULL;
		u64 device = inode ? inode->super->device : 0, line = text->size;

		text_hex(text, vma->start, 8);
		text_put(text, "-");
		text_hex(text, vma->end, 8);
		text_put(text, " ");
		put_permissions(text, vma);
		text_put(text, " ");
		text_hex(text, vma->offset, 8);
		text_put(text, " ");
		text_hex(text, device >> 8 & 0xfff, 2);
		text_put(text, ":");
		text_hex(text, device & 0xff, 2);
		text_put(text, " ");
		text_number(text, inode ? inode->number : 0);
		text_put(text, " ");
		put_name(text, t->mm, vma, line);
		text_put(text, "\n");
	}
}

struct memory {
	u64 pages, resident, stack;
};

static struct memory memory_of(struct task *t)
{
	struct memory memory = { 0 };

	for (u32 i = 0; t->mm && i < t->mm->count; i++) {
		const struct vma *vma = &t->mm->vmas[i];

		memory.pages += (vma->end - vma->start) / PAGE;
		memory.resident += mm_resident(t->mm, vma->start, vma->end, NULL);
		if (vma->end == USER_TOP)
			memory.stack = (vma->end - vma->start) / PAGE;
	}
	return memory;
}

static void write_statm(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);
	struct memory memory = memory_of(t);

	text_number(text, memory.pages);
	text_put(text, " ");
	text_number(text, memory.resident);
	text_put(text, " 0 0 0 ");
	text_number(text, memory.pages);
	text_put(text, " 0\n");
}

/* -- state -- */

static void put_ids(struct text *text, const char *name, const struct ids *ids)
{
	const u32 values[] = { ids->real, ids->effective, ids->saved, ids->fs };

	text_put(text, name);
	for (u32 i = 0; i < ARRAY_SIZE(values); i++) {
		text_put(text, "\t");
		text_number(text, values[i]);
	}
	text_put(text, "\n");
}

static void put_users(struct text *text, const struct cred *cred)
{
	put_ids(text, "Uid:", &cred->user);
	put_ids(text, "Gid:", &cred->group);
	text_put(text, "FDSize:\t256\nGroups:\t");
	for (u32 i = 0; cred->groups && i < cred->groups->count; i++) {
		text_put(text, i ? " " : "");
		text_number(text, cred->groups->ids[i]);
	}
	text_put(text, " \n");
}

static void put_mask(struct text *text, const char *name, u64 mask)
{
	text_put(text, name);
	text_hex(text, mask, 16);
	text_put(text, "\n");
}

static void put_signals(struct text *text, struct task *t)
{
	u64 ignored = 0, caught = 0;

	for (u32 i = 0; i < SIGNALS; i++) {
		ignored |= t->sighand->actions[i].handler == SIG_IGN ? 1ull << i : 0;
		caught |= t->sighand->actions[i].handler > SIG_IGN ? 1ull << i : 0;
	}
	text_put(text, "SigQ:\t0/1000\n");
	put_mask(text, "SigPnd:\t", t->pending.set);
	put_mask(text, "ShdPnd:\t", t->process->pending.set);
	put_mask(text, "SigBlk:\t", t->blocked);
	put_mask(text, "SigIgn:\t", ignored);
	put_mask(text, "SigCgt:\t", caught);
}

static void put_capabilities(struct text *text, const struct cred *cred)
{
	put_mask(text, "CapInh:\t", cred->inheritable);
	put_mask(text, "CapPrm:\t", cred->permitted);
	put_mask(text, "CapEff:\t", cred->effective);
	put_mask(text, "CapBnd:\t", cred->bounding);
	put_mask(text, "CapAmb:\t", cred->ambient);
}

static void write_status(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);
	struct memory memory = memory_of(t);

	text_put(text, "Name:\t");
	text_put(text, t->name);
	text_put(text, "\nUmask:\t");
	text_octal(text, t->fs ? t->fs->umask : 0, 4);
	text_put(text, "\nState:\t");
	text_put(text, state_of(t));
	text_put(text, "\n");
	text_line(text, "Tgid:\t", (u64)t->process->pid, "\nNgid:\t0");
	text_line(text, "Pid:\t", (u64)t->tid, "");
	text_line(text, "PPid:\t", (u64)parent_pid(t->process), "");
	text_line(text, "TracerPid:\t", t->tracee ? (u64)t->tracee->tracer->process->pid : 0, "");
	put_users(text, &t->cred);
	text_line(text, "NStgid:\t", (u64)t->process->pid, "");
	text_line(text, "NSpid:\t", (u64)t->tid, "");
	text_line(text, "NSpgid:\t", (u64)t->process->group, "");
	text_line(text, "NSsid:\t", (u64)t->process->session, "");
	text_line(text, "VmPeak:\t", memory.pages * 4, " kB");
	text_line(text, "VmSize:\t", memory.pages * 4, " kB\nVmLck:\t0 kB\nVmPin:\t0 kB");
	text_line(text, "VmHWM:\t", memory.resident * 4, " kB");
	text_line(text, "VmRSS:\t", memory.resident * 4, " kB");
	text_line(text, "RssAnon:\t", memory.resident * 4, " kB\nRssFile:\t0 kB\nRssShmem:\t0 kB");
	text_line(text, "VmData:\t", memory.pages * 4, " kB");
	text_line(text, "VmStk:\t", memory.stack * 4, " kB\nVmExe:\t0 kB\nVmLib:\t0 kB\nVmPTE:\t0 kB\nVmSwap:\t0 kB");
	text_line(text, "Threads:\t", t->process->task_count, "");
	put_signals(text, t);
	put_capabilities(text, &t->cred);
	text_line(text, "NoNewPrivs:\t", t->no_new_privs, "");
	text_line(text, "Seccomp:\t", filters_mode(t), "");
	text_line(text, "Seccomp_filters:\t", !!t->seccomp + filters_count(t->filters), "");
	text_put(text, "Cpus_allowed:\t");
	text_cpus(text, t->affinity);
	text_put(text, "\nCpus_allowed_list:\t");
	text_cpu_list(text, t->affinity);
	text_put(text, "\n"
		       "Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n");
}

static void put_many(struct text *text, const s64 *values, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		text_put(text, " ");
		text_signed(text, values[i]);
	}
}

static bool is_thread(const struct synthetic_inode *node)
{
	return node->count != process_file_count;
}

/* Of a clock with 100 ticks a second. */
static s64 ticks(u64 nanoseconds)
{
	return (s64)(nanoseconds / 10000000);
}

static void write_stat(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);
	struct memory memory = memory_of(t);
	const struct tty *tty = t->process->terminal;
	const s64 first[] = { parent_pid(t->process), t->process->group, t->process->session, tty ? (s64)pts_device(tty->index) : 0,
			      tty ? tty->group : -1, 0x400000, 0, 0, 0, 0,
			      ticks(is_thread(node) ? task_cpu_time(t) : process_cpu_time(t->process)), 0,
			      ticks(t->process->child_cpu_time), 0, 20 + t->nice, t->nice, t->process->task_count, 0,
			      ticks(t->process->started - vfs.started), (s64)memory.pages * PAGE, (s64)memory.resident };
	const s64 rest[] = { 0, 0, 0, 0, 0, 0, (s64)t->blocked & 0x7fffffff, 0, 0, 0, 0, 0, 17, t->cpu, 0, 0, 0, 0, 0, 0, 0,
			     t->mm ? (s64)t->mm->heap : 0, 0, 0, 0, 0, 0 };

	text_number(text, (u64)t->tid);
	text_put(text, " (");
	text_put(text, t->name);
	text_put(text, ") ");
	text_bytes(text, state_of(t), 1);
	put_many(text, first, ARRAY_SIZE(first));
	text_put(text, " 18446744073709551615");
	put_many(text, rest, ARRAY_SIZE(rest));
	text_put(text, "\n");
}

static void write_comm(struct text *text, struct synthetic_inode *node)
{
	text_put(text, task_of(node)->name);
	text_put(text, "\n");
}

static s64 store_comm(struct synthetic_inode *node, const char *data, u64 size)
{
	struct task *t = task_of(node);
	u64 used = size < sizeof(t->name) - 1 ? size : sizeof(t->name) - 1;

	if (t->process != core.current->process)
		return -EINVAL;
	if (used && data[used - 1] == '\n')
		used--;
	bytes_zero(t->name, sizeof(t->name));
	bytes_copy(t->name, data, used);
	return (s64)size;
}

static void write_limits(struct text *text, struct synthetic_inode *node)
{
	static const char *const names[RLIMITS][2] = {
		{ "Max cpu time              ", "seconds" }, { "Max file size             ", "bytes" },
		{ "Max data size             ", "bytes" },   { "Max stack size            ", "bytes" },
		{ "Max core file size        ", "bytes" },   { "Max resident set          ", "bytes" },
		{ "Max processes             ", "processes" }, { "Max open files            ", "files" },
		{ "Max locked memory         ", "bytes" },   { "Max address space         ", "bytes" },
		{ "Max file locks            ", "locks" },   { "Max pending signals       ", "signals" },
		{ "Max msgqueue size         ", "bytes" },   { "Max nice priority         ", "" },
		{ "Max realtime priority     ", "" },	     { "Max realtime timeout      ", "us" },
	};
	struct task *t = task_of(node);

	text_put(text, "Limit                     Soft Limit           Hard Limit           Units     \n");
	for (u32 i = 0; i < RLIMITS; i++) {
		const u64 values[] = { t->process->limits[i].current, t->process->limits[i].maximum };

		text_put(text, names[i][0]);
		for (u32 j = 0; j < 2; j++) {
			u64 column = text->size + 21;

			if (values[j] == ~0ull)
				text_put(text, "unlimited");
			else
				text_number(text, values[j]);
			while (text->size < column && !text->failed)
				text_put(text, " ");
		}
		text_put(text, names[i][1]);
		text_put(text, "\n");
	}
}

/* -- the program -- */

static void put_memory(struct text *text, struct mm *mm, u64 from, u64 end)
{
	u8 *page = page_alloc();

	mm_get(mm); /* a read can sleep */
	for (u64 part; page && from < end; from += part) {
		part = end - from < PAGE ? end - from : PAGE;
		if (user_read(mm, page, from, part))
			break;
		text_bytes(text, page, part);
	}
	mm_put(mm);
	page_free(page);
}

/* The arguments in the program's memory, which it can change. */
static void write_cmdline(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);

	if (t && t->mm)
		put_memory(text, t->mm, t->mm->arguments.start, t->mm->arguments.end);
}

static void write_environ(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);

	if (t && t->mm && may_inspect(core.current, t, true))
		put_memory(text, t->mm, t->mm->environment.start, t->mm->environment.end);
}

/* What the kernel has told the program at its start. */
static void write_auxv(struct text *text, struct synthetic_inode *node)
{
	struct task *t = task_of(node);

	if (t && t->mm && may_inspect(core.current, t, true))
		put_memory(text, t->mm, t->mm->vector.start, t->mm->vector.end);
}

static void write_oom_adjustment(struct text *text, struct synthetic_inode *node)
{
	const struct task *t = task_of(node);

	text_signed(text, t ? t->process->oom_adjustment : 0);
	text_put(text, "\n");
}

/* Follow a link of a process, if the caller may inspect it. */
static int jump_to(const struct task *t, const struct path *from, struct path *to)
{
	if (!may_inspect(core.current, t, true))
		return -EACCES;
	if (!from->dentry)
		return -ENOENT;
	*to = *from;
	path_get(to);
	return 0;
}

static int jump_exe(struct inode *inode, struct path *path)
{
	struct task *t = task_of(synthetic_of(inode));

	return t && t->mm && t->mm->program ? jump_to(t, &t->mm->program->path, path) : -ENOENT;
}

static int jump_cwd(struct inode *inode, struct path *path)
{
	struct task *t = task_of(synthetic_of(inode));

	return t && t->fs ? jump_to(t, &t->fs->cwd, path) : -ENOENT;
}

static int jump_root(struct inode *inode, struct path *path)
{
	struct task *t = task_of(synthetic_of(inode));

	return t && t->fs ? jump_to(t, &t->fs->root, path) : -ENOENT;
}

/* -- mounts -- */

/* Spaces and the like as octal numbers. */
static void put_escaped(struct text *text, const char *name)
{
	for (; *name; name++) {
		if (*name == ' ' || *name == '\t' || *name == '\n' || *name == '\\') {
			text_put(text, "\\");
			text_octal(text, (u8)*name, 3);
		} else {
			text_bytes(text, name, 1);
		}
	}
}

/* The name of a path below another one; false: it is not below it. */
static bool put_path(struct text *text, const struct path *path, const struct path *root)
{
	char *name = page_alloc();
	bool reachable = true;
	s64 at = name ? path_name(path, root, name, PAGE, &reachable) : -ENOMEM;

	if (at >= 0 && reachable)
		put_escaped(text, name + at);
	page_free(name);
	return at >= 0 && reachable;
}

static void put_options(struct text *text, u32 flags)
{
	text_put(text, flags & MS_RDONLY ? "ro" : "rw");
	text_put(text, flags & MS_NOSUID ? ",nosuid" : "");
	text_put(text, flags & MS_NODEV ? ",nodev" : "");
	text_put(text, flags & MS_NOEXEC ? ",noexec" : "");
	text_put(text, flags & MS_NOATIME ? ",noatime" : "");
	text_put(text, flags & MS_NODIRATIME ? ",nodiratime" : "");
	text_put(text, flags & (MS_NOATIME | MS_STRICTATIME) ? "" : ",relatime");
}

static void put_super_options(struct text *text, struct super *super)
{
	if (super->operations->show)
		super->operations->show(super, text);
}

static void put_mount(struct text *text, const struct mount *mount)
{
	const struct path path = { (struct mount *)mount, mount->root };
	u64 line = text->size;

	put_escaped(text, mount->source);
	text_put(text, " ");
	if (!put_path(text, &path, &caller_fs()->root)) {
		text->size = line;
		return;
	}
	text_put(text, " ");
	text_put(text, mount->super->type);
	text_put(text, " ");
	put_options(text, mount->flags | mount->super->flags);
	put_super_options(text, mount->super);
	text_put(text, " 0 0\n");
}

static void put_mount_info(struct text *text, struct mount *mount)
{
	const struct path path = { mount, mount->root };
	u64 line = text->size;

	text_number(text, mount->id);
	text_put(text, " ");
	text_number(text, mount->parent ? mount->parent->id : 1);
	text_put(text, " 0:");
	text_number(text, mount->super->device & 0xff);
	text_put(text, " ");
	put_path(text, &(struct path){ NULL, mount->root }, &(struct path){ NULL, mount->super->root });
	text_put(text, " ");
	if (!put_path(text, &path, &caller_fs()->root)) {
		text->size = line;
		return;
	}
	text_put(text, " ");
	put_options(text, mount->flags);
	text_put(text, " - ");
	text_put(text, mount->super->type);
	text_put(text, " ");
	put_escaped(text, mount->source);
	text_put(text, mount->super->flags & MS_RDONLY ? " ro" : " rw");
	put_super_options(text, mount->super);
	text_put(text, "\n");
}

static void write_mounts(struct text *text, struct synthetic_inode *node)
{
	struct mount *mount;

	(void)node;
	for (u32 id = 0; (mount = mount_after(id)); mount_put(mount)) {
		id = mount->id;
		put_mount(text, mount);
	}
}

static void write_mountinfo(struct text *text, struct synthetic_inode *node)
{
	struct mount *mount;

	(void)node;
	for (u32 id = 0; (mount = mount_after(id)); mount_put(mount)) {
		id = mount->id;
		put_mount_info(text, mount);
	}
}

/* -- descriptors -- */

static struct file *file_of(const struct synthetic_inode *node)
{
	struct task *t = task_of(node);
	struct fd *fd = t && t->files ? fd_at(t->files, node->number) : NULL;

	return fd ? fd->file : NULL;
}

static int jump_fd(struct inode *inode, struct path *path)
{
	struct file *file = file_of(synthetic_of(inode));

	return file ? jump_to(task_of(synthetic_of(inode)), &file->path, path) : -ENOENT;
}

static void write_fdinfo(struct text *text, struct synthetic_inode *node)
{
	struct file *file = file_of(node);

	if (!file)
		return;
	text_line(text, "pos:\t", file->stream ? 0 : file->position, "");
	text_put(text, "flags:\t0");
	text_octal(text, file->flags, 1);
	text_line(text, "\nmnt_id:\t", file->path.mount->id, "");
	text_line(text, "ino:\t", file->inode->number, "");
}

static bool fd_is_there(struct inode *inode)
{
	return file_of(synthetic_of(inode)) != NULL;
}

static const struct synthetic fd_link = { .name = "fd", .jump = jump_fd };
static const struct synthetic fd_info = { .name = "fdinfo", .write = write_fdinfo };

static int look_up_fd(struct inode *directory, struct dentry *dentry)
{
	struct synthetic_inode node = *synthetic_of(directory);
	s32 number = number_of(dentry->name);
	bool info = node.prefix[2] != '/';
	struct file *file;
	u32 mode = S_IFREG | 0444;

	node.number = (u32)number;
	file = number >= 0 ? file_of(&node) : NULL;
	if (!file)
		return 0;
	node.lookup = NULL;
	node.list = NULL;
	node.valid = fd_is_there;
	if (!info)
		mode = S_IFLNK | (file->readable || file->flags & O_PATH ? 0500 : 0) | (file->writable ? 0300 : 0);
	dentry->inode = synthetic_inode(directory->super, &node, info ? &fd_info : &fd_link, mode);
	return dentry->inode ? 0 : -ENOMEM;
}

static bool list_fds(struct file *file, struct entries *entries)
{
	struct synthetic_inode node = *synthetic_of(file->inode);
	u64 first = node.count + 2;

	for (u64 number = file->position - first; number < FDS_MOST; number++) {
		struct text name = { .data = NULL };
		bool room;

		node.number = (u32)number;
		if (!file_of(&node))
			continue;
		text_number(&name, number);
		room = entries_put(entries, name.data, name.size, 20000 + number, node.prefix[2] == '/' ? DT_LNK : DT_REG,
				   first + number + 1);
		text_free(&name);
		if (!room)
			return false;
		file->position = first + number + 1;
	}
	return true;
}

bool list_numbers(struct file *file, struct entries *entries, u64 first,
		  s32 (*after)(const struct synthetic_inode *node, s32 number))
{
	for (s32 number = (s32)(file->position - first); (number = after(synthetic_of(file->inode), number)) > 0;) {
		struct text name = { .data = NULL };
		bool room;

		text_number(&name, (u64)number);
		room = entries_put(entries, name.data, name.size, 10000 + (u64)number, DT_DIR, first + (u64)number);
		text_free(&name);
		if (!room)
			return false;
		file->position = first + (u64)number;
	}
	return true;
}

/* -- threads -- */

static bool thread_is_there(struct inode *inode)
{
	return task_find(synthetic_of(inode)->pids, synthetic_of(inode)->pid) != NULL;
}

static int look_up_thread(struct inode *directory, struct dentry *dentry)
{
	struct task *leader = task_of(synthetic_of(directory));
	s32 number = number_of(dentry->name);
	struct task *t = number > 0 && leader ? task_find(leader->process->pids, number) : NULL;
	struct synthetic_inode node = {
		.table = process_files, .count = process_file_count - 1, .prefix = "", .pid = number, .valid = thread_is_there,
		.pids = synthetic_of(directory)->pids,
	};

	if (!t || !leader || t->process != leader->process)
		return 0;
	dentry->inode = synthetic_inode(directory->super, &node, NULL, S_IFDIR | 0555);
	return dentry->inode ? 0 : -ENOMEM;
}

static s32 thread_after(const struct synthetic_inode *node, s32 tid)
{
	const struct task *leader = task_of(node);
	s32 next = 0;

	if (!leader)
		return 0;
	EACH_TASK(t, leader->process)
		if (t->tid > tid && (!next || t->tid < next))
			next = t->tid;
	return next;
}

static bool list_threads(struct file *file, struct entries *entries)
{
	return list_numbers(file, entries, synthetic_of(file->inode)->count + 2, thread_after);
}

void process_prepare(struct synthetic_inode *node)
{
	if (!node->pid || node->prefix_size < 3)
		return;
	if (bytes_equal(node->prefix, "task/", 5)) {
		node->lookup = look_up_thread;
		node->list = list_threads;
	} else if (bytes_equal(node->prefix, "fd/", 3) || bytes_equal(node->prefix, "fdinfo/", 7)) {
		node->lookup = look_up_fd;
		node->list = list_fds;
	}
}

const struct synthetic process_files[] = {
	{ .name = "auxv", .write = write_auxv, .mode = 0400 },
	{ .name = "cgroup", .fixed = "0::/\n" },
	{ .name = "cmdline", .write = write_cmdline },
	{ .name = "comm", .write = write_comm, .store = store_comm },
	{ .name = "cwd", .jump = jump_cwd },
	{ .name = "environ", .write = write_environ, .mode = 0400 },
	{ .name = "exe", .jump = jump_exe },
	{ .name = "fd/" },
	{ .name = "fdinfo/" },
	{ .name = "gid_map", .write = write_gid_map },
	{ .name = "limits", .write = write_limits },
	{ .name = "loginuid", .fixed = "4294967295" },
	{ .name = "maps", .write = write_maps },
	{ .name = "mem", .open = open_process_memory, .mode = 0600 },
	{ .name = "mountinfo", .write = write_mountinfo },
	{ .name = "mounts", .write = write_mounts },
	{ .name = "net/dev", .write = write_net_dev },
	{ .name = "net/if_inet6", .write = write_net_if_inet6 },
	{ .name = "net/route", .write = write_net_route },
	{ .name = "net/tcp", .write = write_net_tcp },
	{ .name = "net/tcp6", .write = write_net_tcp6 },
	{ .name = "net/udp", .write = write_net_udp },
	{ .name = "net/udp6", .write = write_net_udp6 },
	{ .name = "net/unix", .write = write_net_unix },
	{ .name = "ns/cgroup", .jump = jump_namespace },
	{ .name = "ns/ipc", .jump = jump_namespace },
	{ .name = "ns/mnt", .jump = jump_namespace },
	{ .name = "ns/net", .jump = jump_namespace },
	{ .name = "ns/pid", .jump = jump_namespace },
	{ .name = "ns/pid_for_children", .jump = jump_namespace },
	{ .name = "ns/time", .jump = jump_namespace },
	{ .name = "ns/time_for_children", .jump = jump_namespace },
	{ .name = "ns/user", .jump = jump_namespace },
	{ .name = "ns/uts", .jump = jump_namespace },
	{ .name = "oom_adj", .fixed = "0\n" },
	{ .name = "oom_score", .fixed = "0\n" },
	{ .name = "oom_score_adj", .write = write_oom_adjustment },
	{ .name = "projid_map", .write = write_projid_map },
	{ .name = "root", .jump = jump_root },
	{ .name = "sessionid", .fixed = "4294967295" },
	{ .name = "setgroups", .fixed = "allow\n" },
	{ .name = "stat", .write = write_stat },
	{ .name = "statm", .write = write_statm },
	{ .name = "status", .write = write_status },
	{ .name = "uid_map", .write = write_uid_map },
	{ .name = "task/" }, /* the last one: a thread has none */
};
const u32 process_file_count = ARRAY_SIZE(process_files);

const struct synthetic *process_file(const char *name)
{
	const struct synthetic *entry = process_files;

	while (!strings_equal(entry->name, name))
		entry++;
	return entry;
}
