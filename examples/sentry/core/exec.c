// SPDX-License-Identifier: Apache-2.0
/* execve: another program in a task, whose other threads end. */
#include "exec.h"
#include "ptrace.h"
#include "vfs/vfs.h"
#include "vfs/walk.h"

enum { MAX_SCRIPTS = 5 };

/* -- arguments -- */

int argument_add(struct arguments *a, const char *text, u64 size)
{
	u64 room = a->room ? a->room : PAGE;
	char *texts;

	if (size > ARGUMENT_MOST || size > ARGUMENT_BYTES - a->bytes)
		return -E2BIG;
	while (room < a->bytes + size)
		room *= 2;
	if (room > a->room) {
		texts = kmalloc(room);
		if (!texts)
			return -ENOMEM;
		if (a->bytes)
			bytes_copy(texts, a->texts, a->bytes);
		kfree(a->texts);
		a->texts = texts;
		a->room = room;
	}
	bytes_copy(a->texts + a->bytes, text, size);
	a->bytes += size;
	return 0;
}

/* A string in the program's memory, in pieces. */
static int add_user(struct arguments *a, struct task *t, u64 from, char *page)
{
	u64 size = 0;
	s64 got;
	int error;

	do {
		got = user_string(t->mm, page, from + size, PAGE - 1);
		if (got == -EFAULT)
			return -EFAULT;
		error = argument_add(a, page, got < 0 ? PAGE - 1 : (u64)got + 1);
		size += PAGE - 1;
		if (error || size > ARGUMENT_MOST)
			return error ? error : -E2BIG;
	} while (got < 0);
	return 0;
}

static int add_list(struct arguments *a, struct task *t, u64 from, u64 *count, char *page)
{
	u64 text;
	int error;

	for (; from; from += sizeof(text)) {
		if (user_read(t->mm, &text, from, sizeof(text)))
			return -EFAULT;
		if (!text)
			return 0;
		error = add_user(a, t, text, page);
		if (error)
			return error;
		if (++*count > ARGUMENT_BYTES / sizeof(text))
			return -E2BIG;
	}
	return 0;
}

static int get_arguments(struct arguments *a, struct task *t, u64 argv, u64 envp)
{
	char *page = page_alloc();
	int error = page ? add_list(a, t, argv, &a->argc, page) : -ENOMEM;

	if (!error && !a->argc) {
		error = argument_add(a, "", 1);
		a->argc = 1;
	}
	if (!error)
		error = add_list(a, t, envp, &a->envc, page);
	page_free(page);
	return error;
}

/* -- files -- */

static int open_program(const struct path *path, struct file **file)
{
	struct inode *inode = path->dentry->inode;
	int error;

	if (S_ISLNK(inode->mode))
		return -ELOOP; /* it was not followed */
	if (!S_ISREG(inode->mode) || path->mount->flags & MS_NOEXEC)
		return -EACCES;
	error = inode_permission(inode, MAY_EXEC);
	if (!error && inode->writers)
		error = -ETXTBSY;
	return error ? error : file_open(path, O_RDONLY | O_LARGEFILE, file);
}

/* Split a script's first line: an interpreter, and what follows as one argument. *argument can be NULL. */
static int parse_script(char *line, u64 size, char **interpreter, char **argument)
{
	u64 end = 0, at = 2;

	while (end < size && line[end] != '\n')
		end++;
	if (end == SCRIPT_BYTES)
		end--; /* what is behind is cut off */
	line[end] = 0;
	while (end && (line[end - 1] == ' ' || line[end - 1] == '\t'))
		line[--end] = 0;
	while (line[at] == ' ' || line[at] == '\t')
		at++;
	if (!line[at])
		return -ENOEXEC;
	*interpreter = line + at;
	while (line[at] && line[at] != ' ' && line[at] != '\t')
		at++;
	*argument = NULL;
	if (!line[at])
		return 0;
	line[at++] = 0;
	while (line[at] == ' ' || line[at] == '\t')
		at++;
	*argument = line[at] ? line + at : NULL;
	return 0;
}

/* The arguments of an interpreter: itself, its argument, the script's name, and the script's arguments but the first. */
static int script_arguments(struct arguments *a, const char *interpreter, const char *argument, const char *name)
{
	struct arguments new = { .argc = a->argc + 1 + (argument != NULL), .envc = a->envc };
	u64 first = string_size(a->texts) + 1;
	int error = argument_add(&new, interpreter, string_size(interpreter) + 1);

	if (!error && argument)
		error = argument_add(&new, argument, string_size(argument) + 1);
	if (!error)
		error = argument_add(&new, name, string_size(name) + 1);
	for (u64 part; !error && first < a->bytes; first += part) {
		part = a->bytes - first < ARGUMENT_MOST ? a->bytes - first : ARGUMENT_MOST;
		error = argument_add(&new, a->texts + first, part);
	}
	kfree(a->texts);
	*a = new;
	return error;
}

/* Replace a script by its interpreter, until it is not a script. */
static int follow_scripts(struct file **file, struct arguments *a, const char *name)
{
	char line[SCRIPT_BYTES + 1], before[SCRIPT_BYTES + 1], *interpreter, *argument;
	struct path path;

	for (u32 depth = 0;; depth++) {
		s64 got = file_read_core(*file, line, SCRIPT_BYTES, 0);
		int error;

		if (got < 0)
			return (int)got;
		if (got < 2 || line[0] != '#' || line[1] != '!')
			return 0;
		if (depth == MAX_SCRIPTS)
			return -ELOOP;
		error = parse_script(line, (u64)got, &interpreter, &argument);
		if (!error)
			error = script_arguments(a, interpreter, argument, name);
		if (!error)
			error = path_lookup(interpreter, WALK_FOLLOW, &path);
		if (error)
			return error;
		file_put(*file);
		*file = NULL;
		error = open_program(&path, file);
		path_put(&path);
		if (error)
			return error;
		bytes_copy(before, interpreter, string_size(interpreter) + 1);
		name = before;
	}
}

/* -- the change -- */

static s64 end_others(struct task *t)
{
	struct process *p = t->process;
	s64 error = 0;

	if (p->alone || p->ending)
		return -EAGAIN;
	p->alone = t;
	EACH_TASK(other, p)
		if (other != t)
			task_ready(other);
	while (p->task_count > 1 && !error)
		error = sleep_on_killable(&p->child_changed, FOREVER);
	p->alone = NULL;
	if (!error && t->tid != p->pid) {
		if (p->leader)
			tracee_forget(p->leader); /* of which nobody hears any more */
		task_remove(t);
		task_add(t, p->pid);
		if (t->tracee)
			t->tracee->tid = p->pid;
	}
	return error;
}

static int unshare(struct task *t)
{
	if (t->sighand->references > 1) {
		struct sighand *own = sighand_copy(t->sighand);

		if (!own)
			return -ENOMEM;
		sighand_put(t->sighand);
		t->sighand = own;
	}
	return files_unshare(t);
}

static void set_name(struct task *t, const char *path)
{
	const char *name = path;
	u64 size = 0;

	for (; *path; path++)
		if (*path == '/')
			name = path + 1;
	bytes_zero(t->name, sizeof(t->name));
	for (; name[size] && size < sizeof(t->name) - 1; size++)
		t->name[size] = name[size];
}

static void begin(struct task *t, struct mm *mm, const struct image *image, u64 stack, const char *name)
{
	if (t->mm)
		release_mm(t);
	t->mm = mm;
	fpu_reset(t->fpu);
	t->regs = (struct regs){ .rip = image->start, .rsp = stack };
	t->altstack = (struct sigaltstack){ .flags = 0 };
	t->clear_tid = t->robust_list = 0;
	t->restart = NULL;
	t->process->has_executed = true;
	t->process->exit_signal = SIGCHLD;
	set_name(t, name);
}

/* Whether others may not inspect a program. Can sleep. */
static bool is_secret(struct file *file, const struct cred *new, bool secure)
{
	return secure || new->user.real != new->user.effective || new->group.real != new->group.effective ||
	       inode_permission(file->inode, MAY_READ);
}

static void set_executes(struct task *t, bool executes)
{
	if (t->executes == executes)
		return;
	t->executes = executes;
	t->process->executing += executes ? 1 : -1u;
	if (!t->process->executing)
		wake_all(&core.executed);
}

/* The point of no return. */
static void replace(struct task *t, struct mm *mm, const struct image *image, u64 stack, const char *name)
{
	futex_exit(t);
	posix_timers_free(t->process);
	files_close_on_exec(t->files);
	signal_reset_handlers(t->sighand);
	begin(t, mm, image, stack, name);
	if (image->secure)
		t->death_signal = 0;
	cred_change(t, image->cred);
}

/* Start an executable file in a task: 0 or -errno. */
static s64 execute(struct task *t, struct file *file, const struct arguments *a, const char *name)
{
	struct mm *mm = mm_new(t->mm);
	struct cred cred;
	struct image image;
	u64 stack = 0;
	int error = -ENOMEM;
	s32 tid = t->tid;
	s64 result;

	if (!mm)
		return -ENOMEM;
	if (elf_load(mm, file, &image, &error)) {
		mm_put(mm);
		return error;
	}
	image.cred = &cred;
	image.secure = t->gains_rights = cred_exec(t, file->inode, file->path.mount, &cred);
	result = stack_build(mm, a, name, &image, &stack) ? error : end_others(t);
	if (!result)
		result = unshare(t);
	if (result) {
		t->gains_rights = false;
		mm_put(mm);
		return result;
	}
	mm->secret = is_secret(file, &cred, image.secure);
	replace(t, mm, &image, stack, name);
	t->gains_rights = false;
	set_executes(t, false);
	if (t->tracee)
		tracing_exec(t, tid);
	return 0;
}

static s64 exec_path(struct task *t, const struct path *path, const char *name, u64 argv, u64 envp)
{
	struct arguments a = { 0 };
	struct file *file = NULL;
	s64 error = open_program(path, &file);

	if (!error)
		error = get_arguments(&a, t, argv, envp);
	if (!error)
		error = follow_scripts(&file, &a, name);
	if (!error)
		error = execute(t, file, &a, name);
	if (file)
		file_put(file);
	kfree(a.texts);
	return error;
}

static s64 exec_user(struct task *t, u64 directory, u64 from, u64 argv, u64 envp, u32 flags)
{
	char *name = page_buffer();
	struct path path;
	s64 error;

	if (!name)
		return -ENOMEM;
	error = user_string(t->mm, name, from, PATH_MAX);
	if (error >= 0)
		error = path_user(t, directory, from, flags, &path);
	if (!error) {
		set_executes(t, true);
		error = exec_path(t, &path, name, argv, envp);
		set_executes(t, false);
		path_put(&path);
	}
	page_free(name);
	return error;
}

s64 sys_execve(struct task *t, const u64 *args)
{
	return exec_user(t, (u64)AT_FDCWD, args[0], args[1], args[2], WALK_FOLLOW);
}

s64 sys_execveat(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[4];

	if (flags & ~(u32)(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return -EINVAL;
	return exec_user(t, args[0], args[1], args[2], args[3],
			 (flags & AT_SYMLINK_NOFOLLOW ? 0 : WALK_FOLLOW) | (flags & AT_EMPTY_PATH ? WALK_EMPTY : 0));
}

s64 exec_named(struct task *t, const char *path_name, struct arguments *arguments)
{
	char *name = string_size(path_name) < PAGE ? page_alloc() : NULL; /* it can be one of the arguments, which move */
	struct file *file = NULL;
	struct path path;
	s64 error = name ? path_lookup(path_name, WALK_FOLLOW, &path) : -ENOMEM;

	if (!error) {
		bytes_copy(name, path_name, string_size(path_name));
		error = open_program(&path, &file);
		path_put(&path);
	}
	if (!error)
		error = follow_scripts(&file, arguments, name);
	if (!error)
		error = execute(t, file, arguments, name);
	if (file)
		file_put(file);
	page_free(name);
	return error;
}

/* -- the first program -- */

/* By its name from the directory in which it starts. */
static int lookup_first(const struct core_config *config, struct path *path)
{
	const char *name = config->program ? config->real_path : config->path;
	const u64 size = string_size(name), directory = config->directory ? string_size(config->directory) : 0;
	char *page;
	int error;

	if (*name == '/' || !directory)
		return path_lookup(name, WALK_FOLLOW, path);
	page = directory + 1 + size < PAGE ? page_alloc() : NULL;
	if (!page)
		return -ENAMETOOLONG;
	bytes_copy(page, config->directory, directory);
	page[directory] = '/';
	bytes_copy(page + directory + 1, name, size + 1);
	error = path_lookup(page, WALK_FOLLOW, path);
	page_free(page);
	return error;
}

static const char *enter_directory(struct task *t, const char *name)
{
	struct path path;

	if (path_lookup(name, WALK_FOLLOW | WALK_DIRECTORY, &path))
		return "its current directory is not in the root";
	path_replace(&t->fs->cwd, path);
	return NULL;
}

const char *exec_first(struct task *t)
{
	const struct core_config *config = core.config;
	struct arguments a = { 0 };
	struct file *file = NULL;
	struct image image;
	struct path path;
	u64 stack = 0;
	const char *why = "the arguments and the environment are too long";
	int error = 0;

	for (; config->argv[a.argc] && !error; a.argc++)
		error = argument_add(&a, config->argv[a.argc], string_size(config->argv[a.argc]) + 1);
	for (; config->envp[a.envc] && !error; a.envc++)
		error = argument_add(&a, config->envp[a.envc], string_size(config->envp[a.envc]) + 1);
	if (!error) {
		why = "not found in the root";
		error = lookup_first(config, &path);
	}
	if (!error) {
		why = "not a regular file";
		error = S_ISREG(path.dentry->inode->mode) ? file_open(&path, O_RDONLY, &file) : -EACCES;
		path_put(&path);
	}
	if (!error) {
		why = "a script whose interpreter cannot be started";
		error = follow_scripts(&file, &a, config->path);
	}
	if (!error)
		why = elf_load(t->mm, file, &image, &error);
	if (!why && config->directory)
		why = enter_directory(t, config->directory);
	image.cred = &t->cred;
	image.secure = false;
	if (!why)
		why = stack_build(t->mm, &a, config->path, &image, &stack);
	if (!why) {
		struct mm *mm = t->mm;

		t->mm = NULL;
		begin(t, mm, &image, stack, config->path);
	}
	if (file)
		file_put(file);
	kfree(a.texts);
	return why;
}
