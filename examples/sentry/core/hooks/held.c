// SPDX-License-Identifier: Apache-2.0
/*
 * A copy of what the arguments of a system call lead to.
 *
 * The call is made with addresses in the copy, so nothing that the program changes meanwhile has an effect on it. Only
 * user.c knows such addresses, and only while their task makes that call.
 */
#include "record.h"

#include "../strace.h"
#include "../vfs/walk.h"

#define NOWHERE (~0ull) /* leads to EFAULT */

enum { NR_CHDIR = 80, NR_PIVOT_ROOT = 155, NR_CHROOT = 161, ADDRESS_MOST = 128 };

struct held *held_new(enum record_kind kind)
{
	const struct record record = { .kind = kind };
	struct held *held = kmalloc(sizeof(*held));

	if (!held)
		return NULL;
	held->references = 1;
	list_init(&held->outgoing);
	text_bytes(&held->text, &record, sizeof(record));
	if (!held->text.failed)
		return held;
	kfree(held);
	return NULL;
}

void held_put(struct held *held)
{
	if (!reference_put(&held->references))
		return;
	fs_put(held->fs);
	text_free(&held->text);
	kfree(held);
}

struct record *held_record(const struct held *held)
{
	return (struct record *)held->text.data;
}

u64 held_add(struct held *held, const void *data, u64 size)
{
	static const u8 zeros[8];
	u64 at;

	text_bytes(&held->text, zeros, -held->text.size % sizeof(zeros));
	at = held->text.size;
	text_bytes(&held->text, data, size);
	return HELD + at;
}

const u8 *held_at(const struct mm *mm, u64 address, u64 *rest)
{
	const struct held *held = core.current ? core.current->held : NULL;

	if (!held || core.current->mm != mm || address < HELD || address - HELD >= held->text.size)
		return NULL;
	*rest = held->text.size - (address - HELD);
	return (const u8 *)held->text.data + (address - HELD);
}

/* -- copies -- */

static u64 copy_bytes(struct held *held, struct task *t, u64 from, u64 size)
{
	u8 *page = size <= PAGE ? page_buffer() : NULL;
	u64 at = NOWHERE;

	if (page && !user_read(t->mm, page, from, size))
		at = held_add(held, page, size);
	page_free(page);
	return at;
}

/* A text of any size up to `most`, in pieces. */
static u64 copy_text(struct held *held, struct task *t, u64 from, u64 most)
{
	char *page = page_buffer();
	u64 at = page ? held_add(held, NULL, 0) : NOWHERE, done = 0;
	s64 got = page ? -ENAMETOOLONG : 0;

	while (got == -ENAMETOOLONG && done < most && !held->text.failed) {
		got = user_string(t->mm, page, from + done, PAGE);
		if (got == -EFAULT)
			at = NOWHERE;
		else
			text_bytes(&held->text, page, got < 0 ? PAGE : (u64)got + 1);
		done += PAGE;
	}
	if (got == -ENAMETOOLONG)
		text_bytes(&held->text, "", 1);
	page_free(page);
	return at;
}

static u64 copy_texts(struct held *held, struct task *t, u64 from, u64 most)
{
	struct text pointers = { .data = NULL };
	u64 text = 1, at;

	for (; text && held->text.size + pointers.size <= most && !pointers.failed; from += sizeof(text)) {
		if (user_read(t->mm, &text, from, sizeof(text)))
			text = NOWHERE;
		at = text && text != NOWHERE ? copy_text(held, t, text, most) : text;
		text_bytes(&pointers, &at, sizeof(at));
		if (at == NOWHERE)
			break;
	}
	held->text.failed |= pointers.failed;
	at = held_add(held, pointers.data, pointers.size);
	text_free(&pointers);
	return at;
}

/* Of a structure that can become larger, an argument behind it is the size. */
static u64 size_of(const struct syscall *call, u32 i, const u64 *args)
{
	const u64 size = trace_types[call->arguments[i].detail].size;
	const bool given = i + 1 < call->count && call->arguments[i + 1].kind == T_SIZE;

	return given && args[i + 1] > size ? args[i + 1] : size;
}

static u64 copy_argument(struct held *held, struct task *t, const struct syscall *call, u32 i, const u64 *args, u64 most)
{
	const struct trace_argument *argument = &call->arguments[i];
	const u64 value = args[i], size = argument->kind == T_SOCKADDR ? (u32)args[argument->detail] : 0;

	if (!value)
		return value;
	switch (argument->kind) {
	case T_PATH: return copy_text(held, t, value, PATH_MAX);
	case T_STRINGS: return copy_texts(held, t, value, most);
	case T_GET: return copy_bytes(held, t, value, size_of(call, i, args));
	case T_SOCKADDR: return size <= ADDRESS_MOST ? copy_bytes(held, t, value, size) : NOWHERE;
	}
	return value;
}

/* -- the directory of a relative path -- */

/* The only directory that a call names by descriptor; or how many arguments it has. */
static u32 only_directory(const struct syscall *call)
{
	u32 found = call->count, directories = 0;

	for (u32 i = 0; i < call->count; i++)
		if (call->arguments[i].kind == T_DIRFD) {
			found = i;
			directories++;
		}
	return directories == 1 ? found : call->count;
}

/* A descriptor that a relative path starts at becomes the current directory. */
static void use_directory(struct fs_context *fs, struct task *t, struct record *record, const struct syscall *call)
{
	u32 at = only_directory(call);
	struct file *file;

	if (at == call->count || (s32)record->args[at] == AT_FDCWD)
		return;
	file = fd_file(t, record->args[at]);
	record->args[at] = file ? (u64)AT_FDCWD : ~0ull;
	if (file) {
		path_get(&file->path);
		path_replace(&fs->cwd, file->path);
	}
}

/* Add the name of a file, and that of an entry below it; its address, or 0. */
static u64 add_name(struct held *held, const struct path *path, const char *last, u64 last_size)
{
	char *page = page_buffer();
	s64 size = page ? path_show(path, page, PAGE) : -ENOMEM;
	u64 at = size > 0 ? held_add(held, page, (u64)size) : 0;

	page_free(page);
	if (!at)
		return at;
	text_bytes(&held->text, "/", last && size > 1);
	text_bytes(&held->text, last, last_size);
	text_bytes(&held->text, "", 1);
	return held->text.failed ? 0 : at;
}

/* What the path of the call leads to now; of a new file, its place. It is not what the call is made with. */
static u64 resolve(struct held *held, const char *name, bool follow)
{
	struct walk w = { .flags = 0 };
	struct path path;
	s64 error = follow ? path_lookup(name, WALK_FOLLOW, &path) : -ENOENT;
	u64 at = 0;

	if (!error) {
		at = add_name(held, &path, NULL, 0);
		path_put(&path);
	} else if (error == -ENOENT) {
		error = walk_core(&w, name, WALK_PARENT);
		if (!error && w.kind == LAST_NAME)
			at = add_name(held, &w.at, w.last, w.last_size);
		walk_end(&w);
	}
	return at;
}

static void add_real(struct held *held, struct task *t, const struct syscall *call)
{
	struct fs_context *before = t->fs;
	u64 at = 0, name;

	for (u32 i = 0; i < call->count; i++) {
		name = held_record(held)->args[i] - HELD;
		if (call->arguments[i].kind != T_PATH || !call->arguments[i].detail || name >= held->text.size)
			continue;
		t->fs = held->fs;
		at = resolve(held, held->text.data + name, call->arguments[i].detail == PATH_FOLLOW);
		t->fs = before;
	}
	held_record(held)->real = at;
}

/* Keep root and current directory, in case that the call has a path: 0 or -ENOMEM. */
static s64 keep_directories(struct held *held, struct task *t, const struct syscall *call)
{
	bool some = false, relative = false;
	u64 directory;

	for (u32 i = 0; i < call->count; i++) {
		u64 at = held_record(held)->args[i] - HELD;

		if (call->arguments[i].kind != T_PATH || at >= held->text.size)
			continue;
		some = true;
		relative = relative || held->text.data[at] != '/';
	}
	held->fs = some ? fs_copy(t->fs) : NULL;
	if (some && !held->fs)
		return -ENOMEM;
	if (relative) {
		use_directory(held->fs, t, held_record(held), call);
		directory = add_name(held, &held->fs->cwd, NULL, 0);
		held_record(held)->directory = directory;
	}
	if (some && held_record(held)->kind == RECORD_DECIDE)
		add_real(held, t, call);
	return held->text.failed ? -ENOMEM : 0;
}

/* -- for exchange.c -- */

s64 held_copy(struct held *held, struct task *t, const u64 *args, u64 most)
{
	const struct syscall *call = t->number < SYSCALLS ? &syscalls[t->number] : &syscalls[SYSCALLS - 1];
	const struct timespec now = time_real();
	struct record *record = held_record(held);

	record->time = (u64)now.seconds * 1000000000 + (u64)now.nanoseconds;
	record->number = t->number < SYSCALLS ? (u32)t->number : SYSCALLS;
	record->pid = t->process->pid;
	record->tid = t->tid;
	bytes_copy(record->name, t->name, sizeof(record->name));
	for (u32 i = 0; i < 6; i++) {
		u64 value = i < call->count ? copy_argument(held, t, call, i, args, most) : args[i];

		held_record(held)->args[i] = value; /* the record moves as it grows */
	}
	if (held->text.failed || keep_directories(held, t, call))
		return -ENOMEM;
	return held->text.size > most ? -E2BIG : 0;
}

s64 held_call(struct held *held, struct task *t, s64 (*call)(struct task *t, const u64 *args))
{
	const u64 number = t->number;
	struct fs_context *fs = t->fs;
	bool stays = held->fs && number != NR_CHDIR && number != NR_CHROOT && number != NR_PIVOT_ROOT;
	s64 result;

	t->held = held;
	if (stays)
		t->fs = held->fs;
	result = call(t, held_record(held)->args);
	if (stays)
		t->fs = fs;
	t->held = NULL;
	return result;
}

s64 held_rewrite(struct held *held, u32 i, const void *text, u64 size)
{
	const struct syscall *call = &syscalls[held_record(held)->number];
	u64 at = held_add(held, text, size);

	text_bytes(&held->text, "", 1);
	if (held->text.failed || i >= call->count || call->arguments[i].kind != T_PATH)
		return -EPERM;
	held_record(held)->args[i] = at;
	return 0;
}
