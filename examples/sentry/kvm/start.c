// SPDX-License-Identifier: Apache-2.0
/*
 * What to run: the initrd is a program, or a cpio archive with the root that has it.  A start record can be before either,
 * with the arguments and the environment.  Without a record, the arguments follow "--" on the command line.
 */
#include "kvm.h"
#include "start.h"

enum { WORDS = 64, FLAG_STRACE = 1, PIDS = 1024 };
static const char record_magic[8] = "\x7fSentry", archive_magic[5] = "07070";

/* pyvmm_sentry/boot.py writes it. Its words are places of texts in it: arguments, 0, environment, 0. */
struct record {
	u8 magic[8];
	u64 size; /* with its texts; the program follows */
	u64 real_path, directory; /* directory: 0: there is none */
	u32 user, group, flags, argc, envc, pids, terminal;
	u8 terminal_modes[36];
	u64 words[];
};

struct module {
	u64 address, size, cmdline, reserved;
};

/* The words behind "--", or the program's name alone. One with spaces is between quotation marks. */
static void split(char *text, const char **words)
{
	u32 count = 0;

	while (*text && !(text[0] == '-' && text[1] == '-' && (text[2] == ' ' || !text[2])))
		text++;
	text += *text ? 2 : 0;
	while (*text && count < WORDS) {
		char end = ' ';

		while (*text == ' ')
			*text++ = 0;
		if (*text == '"')
			end = *text++;
		if (*text)
			words[count++] = text;
		while (*text && *text != end)
			text++;
		if (*text)
			*text++ = 0;
	}
	words[count] = NULL;
	if (!count)
		words[0] = "program", words[1] = NULL;
}

/* Replace the places of texts by pointers. */
static void read_record(struct record *record, u64 size, struct start *start)
{
	u64 count = 2ull + record->argc + record->envc;

	if (record->size < sizeof(*record) || record->size > size || count > (record->size - sizeof(*record)) / sizeof(u64) ||
	    ((u8 *)record)[record->size - 1] || record->words[record->argc] || record->words[count - 1] ||
	    record->real_path >= record->size || record->directory >= record->size)
		refuse("the start record is damaged");
	for (u64 i = 0; i < count; i++) {
		if (record->words[i] >= record->size)
			refuse("the start record is damaged");
		if (record->words[i])
			record->words[i] += (u64)record;
	}
	start->argv = (const char *const *)record->words;
	start->envp = start->argv + record->argc + 1;
	start->user = record->user;
	start->group = record->group;
	start->pids = record->pids;
	start->frames = true;
	start->terminal = record->terminal;
	start->terminal_modes = record->terminal_modes;
	start->real_path = (const char *)record + record->real_path;
	start->directory = record->directory ? (const char *)record + record->directory : NULL;
	start->strace = record->flags & FLAG_STRACE;
	start->program = (u8 *)record + record->size;
	start->program_size = size - record->size;
}

void find_start(const struct start_info *info, u64 kernel, struct start *start)
{
	static const char *words[WORDS + 1];
	static const char *const environment[] = { "PATH=/bin", "HOME=/", NULL };
	struct module module = { 0 };
	u8 *initrd;

	if (info->magic != 0x336ec578)
		refuse("the machine does not start kernels by PVH");
	if (info->module_count)
		module = *(const struct module *)(DIRECT + info->modules);
	if (info->module_count && (module.address < kernel || module.address >= GIB4 || module.size > GIB4 - module.address))
		refuse("the initrd is where the kernel cannot use it");
	*start = (struct start){ .argv = words, .envp = environment, .initrd = module.address, .pids = PIDS };
	initrd = (u8 *)(DIRECT + module.address);
	if (module.size >= sizeof(struct record) && !memcmp(initrd, record_magic, sizeof(record_magic))) {
		read_record((struct record *)initrd, module.size, start);
	} else {
		start->program = initrd;
		start->program_size = module.size;
		split((char *)(DIRECT + info->cmdline), words);
		start->real_path = start->program_size ? "/program" : words[0];
	}
	if (start->program_size > sizeof(archive_magic) && !memcmp(start->program, archive_magic, sizeof(archive_magic))) {
		start->archive = start->program;
		start->archive_size = start->program_size;
		start->program_size = 0;
		start->real_path = start->argv[0];
	}
	if (!start->program_size)
		start->program = NULL;
}
