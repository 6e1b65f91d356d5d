/* SPDX-License-Identifier: Apache-2.0 */
/* The host's terminal, which the core drives as the terminal of the program. */
#ifndef SENTRY_TERMINAL_H
#define SENTRY_TERMINAL_H

#include "platform.h"

/* A terminal that this process may use: which of the streams are it (bits), and its modes; 0: there is none. */
u32 terminal_find(u8 *modes);
/*
 * Make it raw, and fork: the child returns.  This process waits for the child, restores the terminal and ends as the
 * child did.
 */
void terminal_guard(void);
extern int terminal_fd;	  /* to write to; -1: there is none */
bool terminal_resized(void); /* since the last call */

#endif
