/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of the C library that lwIP calls. Without one, the platform defines them (kvm/main.c). */
#ifndef SENTRY_LWIP_STRING_H
#define SENTRY_LWIP_STRING_H

void *memcpy(void *to, const void *from, unsigned long size);
void *memmove(void *to, const void *from, unsigned long size);
void *memset(void *at, int byte, unsigned long size);
int memcmp(const void *a, const void *b, unsigned long size);
unsigned long strlen(const char *text);
int strncmp(const char *a, const char *b, unsigned long size);

#endif
