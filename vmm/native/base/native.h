/* SPDX-License-Identifier: Apache-2.0 */
/* What the C files share beyond vmm_native.h and vmm_devices.h. */
#ifndef VMM_NATIVE_NATIVE_H
#define VMM_NATIVE_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm_native.h"
#include "vmm_devices.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#endif
