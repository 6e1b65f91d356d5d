/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyvmm-box: the part of a sandbox that runs inside it.  The host starts it for each operation on files, as the parent
 * of each command, and as the first process.  An exit status below 128 is an errno, except that of a command.
 *
 * Records on its streams are fields that each end with a NUL byte.
 */
#ifndef PYVMM_BOX_H
#define PYVMM_BOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

enum { CHUNK = 1 << 16, PIPE_ROOM = 1 << 18 };
#define UNFINISHED ".pyvmm-" /* begins the name of a file that is being written, which no watch reports */

/* Each returns 0 or an errno. */
int copy_bytes(int from, int to, uint64_t most); /* until the end of `from`, or `most` bytes */
int read_exactly(void *to, size_t size);         /* of standard input; EPIPE at its end */
int make_parents(const char *path);
int remove_tree(const char *path);
int window_receive(int to, size_t slot, off_t whole); /* slot: bytes of each part of the memory that is shared */
int window_send(int from, size_t slot);

/* Each is a command of the program, and returns its exit status. */
int box_init(int argc, char **argv);
int box_exec(int argc, char **argv);
int box_start(int argc, char **argv);
int box_read(int argc, char **argv);
int box_write(int argc, char **argv);
int box_give(int argc, char **argv);
int box_take(int argc, char **argv);
int box_list(int argc, char **argv);
int box_remove(int argc, char **argv);
int box_move(int argc, char **argv);
int box_mkdir(int argc, char **argv);
int box_get(int argc, char **argv);
int box_put(int argc, char **argv);
int box_watch(int argc, char **argv);
int box_after(int argc, char **argv);
int box_expire(int argc, char **argv);
int box_relay(int argc, char **argv);

#endif
