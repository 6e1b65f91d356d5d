/* SPDX-License-Identifier: Apache-2.0 */
/* RAM that this core shares with others, which continue the same stopped one. */
#ifndef SENTRY_BELOW_H
#define SENTRY_BELOW_H

#include "host.h"

/*
 * fd: the RAM of the stopped core, which nobody changes; ram_fd: of this one, which has only what its devices need; ram: where
 * that is mapped. The descriptors stay open. Ends this process on failure.
 */
void below_start(int fd, int ram_fd, u8 *ram, u64 size);
int below_fd(void);  /* of the stopped core's RAM; -1: this core has a copy, and all that follows does nothing */
int below_ram(void); /* of this one's */
void below_own(u64 offset, u64 size); /* others may write to these pages, or read what the core has written */
void below_take(u64 offset); /* the same for one page, which no program sees but one to which the caller shows it */
void below_own_at(const void *at, u64 size); /* the same by address, if that is in RAM: the host's kernel will write there */
void below_drop(u64 offset, u64 size); /* the content of these pages is not needed any more */
/*
 * Programs will see pages of RAM. Returns the size of the first ones that are in one place: below, where nobody may write to
 * them, or in this core's RAM.
 */
u64 below_show(u64 offset, u64 size, bool *below);
bool below_has_moved(void); /* programs may see pages that are elsewhere now: below_settle() hides them */
void below_settle(void);
void below_save(void); /* copy what is below, also as the core has changed it: this process ends */

#endif
