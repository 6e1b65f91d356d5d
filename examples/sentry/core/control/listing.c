// SPDX-License-Identifier: Apache-2.0
/* Files of /proc about the processes of a container, for tools of the host: linux-guest/agent/container.h has the form. */
#include "container.h"

#include "../vfs/process_file.h"

enum { FILE_MOST = 16384, LIST_MOST = 1 << 20 };

/* p: NULL: no process's. */
static void put_file(struct text *list, const struct synthetic *entry, const struct process *p)
{
	s32 pid = p ? p->pid : 0;
	struct synthetic_inode node = { .table = process_files, .count = process_file_count, .entry = entry, .pid = pid,
					.pids = p ? p->pids : SANDBOX_PIDS };
	struct text content = { .data = NULL };
	u64 size;

	entry->write(&content, &node);
	size = content.size < FILE_MOST ? content.size : FILE_MOST;
	if (pid) {
		text_number(list, (u64)pid);
		text_put(list, "/");
	}
	text_put(list, entry->name);
	text_line(list, " ", size, "");
	text_bytes(list, content.data, size);
	text_free(&content);
}

static struct process *first_process(const struct container *container)
{
	EACH_PROCESS(p)
		if (p->container == container && p->guest)
			return p;
	return NULL;
}

void listing_put(struct text *list, const struct container *container)
{
	static const char *const names[] = { "status", "stat", "cmdline" };
	const struct process *first = first_process(container);

	if (!first)
		return;
	text_line(list, "first ", (u64)first->pid, "");
	put_file(list, proc_file("uptime"), NULL);
	put_file(list, proc_file("stat"), NULL);
	EACH_PROCESS(p)
		for (u32 i = 0; p->container == container && !p->zombie && i < ARRAY_SIZE(names); i++)
			if (list->size + FILE_MOST < LIST_MOST - 64)
				put_file(list, process_file(names[i]), p);
	text_put(list, "end\n");
}
