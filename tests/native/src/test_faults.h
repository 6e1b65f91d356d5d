/* SPDX-License-Identifier: Apache-2.0 */
/* A host that fails: test_faults.c has the mechanism and the devices, test_faults_share.c has the share. */
#ifndef TEST_FAULTS_H
#define TEST_FAULTS_H

#include "guest.h"

#include <fcntl.h>

/* Of this thread: how many calls from now one fails; 0: none. */
extern __thread uint32_t fails_at;
/* make() makes a thing and gives it back: 0, or the error with which it could not be made. Each of its calls fails once. */
void each_call_fails(int (*make)(void));
/* What never fails. */
int __real_open(const char *path, int flags, mode_t mode);
int __real_unshare(int flags);

void requests_of_a_share_fail(void);
void requests_of_a_share_with_handles_fail(void);
void requests_of_a_share_without_marks_fail(void);
void few_descriptors_and_handles(void);
void few_descriptors_and_marks(void);
void few_descriptors_and_names(void);
void a_limit_on_open_files(void);
void a_limit_on_nodes(void);
void many_nodes(void);
void programs_that_are_run_again(void);
void mounts_below_a_share(void);
void files_of_an_overlay(void);

#endif
