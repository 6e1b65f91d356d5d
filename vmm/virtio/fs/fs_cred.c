// SPDX-License-Identifier: Apache-2.0
/*
 * The credentials of a thread.
 *
 * The guest's kernel checks permissions (virtiofs always has it do so), so requests are done with the server's credentials.
 * But files are made as the guest's user, with its groups and umask: then the host's kernel gives them the owner, group and
 * mode that a local file system would, also in set-group-id directories and with default ACLs.
 *
 * Only the file-system ids of the thread are changed, by setfsuid() and setfsgid(): they belong to the thread, while the C
 * library's setresuid() changes all threads. And no process of that user can signal or trace this one meanwhile, as it could
 * with its real or effective id.
 */
#include "fs/fs.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP(name) (1ULL << CAP_##name)

/* All capabilities that requests need; with FS_HANDLES also DAC_READ_SEARCH. */
static const uint64_t wanted = CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(FOWNER) | CAP(FSETID) | CAP(SETGID) | CAP(SETUID) |
			       CAP(SETFCAP);

/* The C library has no functions for these. A pid of 0 is the calling thread. */
static int caps_get(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(SYS_capget, &h, data) < 0 ? -errno : 0;
}

static int caps_set(uint64_t effective, uint64_t permitted)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ .effective = (uint32_t)effective, .permitted = (uint32_t)permitted },
		{ .effective = (uint32_t)(effective >> 32), .permitted = (uint32_t)(permitted >> 32) },
	};

	return syscall(SYS_capset, &h, data) < 0 ? -errno : 0;
}

bool fs_can_switch(void)
{
	struct __user_cap_data_struct data[2];

	if (caps_get(data))
		return false;
	return (data[0].effective & (CAP(SETUID) | CAP(SETGID))) == (CAP(SETUID) | CAP(SETGID));
}

int fs_thread_enter(struct fs_queue *q)
{
	uint64_t handles = q->fs->config.flags & FS_HANDLES ? CAP(DAC_READ_SEARCH) : 0;
	struct __user_cap_data_struct data[2];
	int err;

	/*
	 * Give the thread a working directory and a umask of its own. The directory is /proc/self/fd: there, the number of a
	 * descriptor is a path to its file, for calls that take no O_PATH descriptor.
	 */
	if (unshare(CLONE_FS) < 0 || fchdir(q->fs->proc_fd) < 0)
		return -errno;
	umask(0);
	q->umask = 0;
	/* Drop the server's supplementary groups: they must give no permissions to the guest. */
	if (q->fs->can_switch && syscall(SYS_setgroups, 0, NULL) < 0)
		return -errno;
	err = caps_get(data);
	if (err)
		return err;
	q->caps = ((uint64_t)data[1].effective << 32 | data[0].effective) & (wanted | handles);
	return caps_set(q->caps, q->caps);
}

void fs_kill_priv(struct fs_queue *q, bool on)
{
	if (q->caps & CAP(FSETID))
		caps_set(on ? q->caps & ~CAP(FSETID) : q->caps, q->caps);
}

int fs_id_to_host(const struct fs_ids *ids, uint32_t guest, uint32_t *host)
{
	if (!ids->nmaps || guest == UINT32_MAX) {
		*host = guest;
		return 0;
	}
	for (uint32_t i = 0; i < ids->nmaps; i++) {
		const struct fs_map *m = &ids->map[i];

		if (guest >= m->guest && guest - m->guest < m->count) {
			*host = m->host + (guest - m->guest);
			return 0;
		}
	}
	return -EINVAL;
}

uint32_t fs_id_to_guest(const struct fs_ids *ids, uint32_t host)
{
	if (!ids->nmaps)
		return host;
	for (uint32_t i = 0; i < ids->nmaps; i++) {
		const struct fs_map *m = &ids->map[i];

		if (host >= m->host && host - m->host < m->count)
			return m->guest + (host - m->host);
	}
	return ids->unmapped;
}

static void set_umask(struct fs_queue *q, uint32_t mask)
{
	if (q->umask == mask)
		return;
	umask(mask);
	q->umask = mask;
}

int fs_begin(struct fs_req *r, uint32_t mask)
{
	uint32_t uid, gid, supp = 0;
	int err;

	err = fs_id_to_host(&r->fs->config.users, r->in.uid, &uid);
	if (!err)
		err = fs_id_to_host(&r->fs->config.groups, r->in.gid, &gid);
	if (!err && r->has_supp)
		err = fs_id_to_host(&r->fs->config.groups, r->supp, &supp);
	if (err)
		return err;
	set_umask(r->q, mask & 07777);
	if (!r->fs->can_switch)
		return 0;
	r->acting = uid != r->fs->uid || gid != r->fs->gid || r->has_supp;
	if (!r->acting)
		return 0;
	if (r->has_supp && syscall(SYS_setgroups, 1, &supp) < 0)
		goto fail;
	/* They return the previous id, also if they fail, so read the ids afterwards. */
	setfsgid(gid);
	setfsuid(uid);
	if ((uint32_t)setfsgid(-1u) == gid && (uint32_t)setfsuid(-1u) == uid)
		return 0;
fail:
	fs_end(r);
	return -EPERM;
}

bool fs_override(struct fs_req *r, int err)
{
	/* setfsuid() does not change these when it leaves uid 0. */
	const uint64_t kept = CAP(SETGID) | CAP(SETUID) | CAP(SETFCAP);

	if (err != -EACCES || !(r->fs->config.flags & FS_OVERRIDE) || !r->acting || r->overriding ||
	    !(r->q->caps & CAP(DAC_OVERRIDE)))
		return false;
	r->overriding = true;
	return !caps_set((r->q->caps & kept) | CAP(DAC_OVERRIDE), r->q->caps);
}

void fs_end(struct fs_req *r)
{
	/* The umask is not restored: only new files use it, and the next request usually has the same. */
	if (!r->acting)
		return;
	r->acting = r->overriding = false;
	/* Restore the thread's ids; setfsuid() to uid 0 also restores the capabilities that it had removed. */
	setfsuid(r->fs->uid);
	setfsgid(r->fs->gid);
	if (r->has_supp)
		syscall(SYS_setgroups, 0, NULL);
}
