/* SPDX-License-Identifier: Apache-2.0 */
/* lwIP includes this header, but uses nothing from it. */
