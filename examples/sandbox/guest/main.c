// SPDX-License-Identifier: Apache-2.0
#include "box.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	int arguments; /* at least */
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "init", 0, box_init },   { "exec", 1, box_exec },     { "start", 1, box_start }, { "read", 1, box_read },
	{ "write", 2, box_write }, { "list", 2, box_list },     { "move", 2, box_move },   { "mkdir", 1, box_mkdir },
	{ "get", 1, box_get },     { "remove", 1, box_remove }, { "put", 1, box_put },     { "watch", 2, box_watch },
	{ "after", 2, box_after }, { "expire", 4, box_expire },   { "relay", 1, box_relay },
	{ "give", 2, box_give },   { "take", 4, box_take },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (!strcmp(argv[1], commands[i].name) && argc - 2 >= commands[i].arguments) {
			signal(SIGPIPE, SIG_IGN); /* a reader that has gone is EPIPE */
			return commands[i].run(argc - 2, argv + 2);
		}
	}
	return EINVAL;
}
