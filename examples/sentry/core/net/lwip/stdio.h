/* SPDX-License-Identifier: Apache-2.0 */
/* lwIP includes it, and needs nothing of it. */
