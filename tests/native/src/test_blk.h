/* SPDX-License-Identifier: Apache-2.0 */
/* What test_blk*.c share: one disk at a time. */
#ifndef TESTS_NATIVE_TEST_BLK_H
#define TESTS_NATIVE_TEST_BLK_H

#include "disk.h"

extern struct disk d;

void *ram(uint64_t gpa);

/* test_blk_host.c */
void writethrough(void);
void host_has_no_space(void);
void file_size_limit(void);
void image_shorter_than_the_disk(void);
void image_not_writable(void);
void resized(void);
void disk_config_refused(void);
void direct_512(void);
void direct_4096(void);

#endif
