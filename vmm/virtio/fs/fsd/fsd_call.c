// SPDX-License-Identifier: Apache-2.0
/* The VMM's side of pyvmm-fsd: a request, and its answer. */
#include "fs/fsd/fsd.h"

#include "base/native.h"

#include <errno.h>
#include <poll.h>

int fsd_call(int sock, const struct fsd_msg *msg, const int *fds, struct fsd_answer *answer, int *came, int timeout_ms)
{
	struct pollfd ready = { .fd = sock, .events = POLLIN };
	int err;

	err = fd_socket_send(sock, msg, sizeof(*msg), fds, FSD_FDS);
	if (err)
		return err;
	do {
		err = poll(&ready, 1, timeout_ms);
	} while (err < 0 && errno == EINTR);
	if (err <= 0)
		return err ? -errno : -ETIMEDOUT;
	err = fd_socket_recv(sock, answer, fsd_answer_size(msg->op), came, came ? 1 : 0);
	if (err)
		return err;
	answer->text[FS_TEXT - 1] = 0;
	if (answer->version != FSD_VERSION || answer->op != msg->op || answer->result > 0 || answer->result < -4095)
		return -EPROTO;
	return 0;
}
