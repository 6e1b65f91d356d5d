/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials of a task: users, groups and capabilities. */
#ifndef SENTRY_CRED_H
#define SENTRY_CRED_H

#include "types.h"

struct inode;
struct mount;
struct process;
struct task;

enum {
	CAP_CHOWN = 0, CAP_DAC_OVERRIDE = 1, CAP_DAC_READ_SEARCH = 2, CAP_FOWNER = 3, CAP_FSETID = 4, CAP_KILL = 5,
	CAP_SETGID = 6, CAP_SETUID = 7, CAP_SETPCAP = 8, CAP_LINUX_IMMUTABLE = 9, CAP_IPC_OWNER = 15,
	CAP_SYS_CHROOT = 18, CAP_SYS_PTRACE = 19, CAP_SYS_ADMIN = 21, CAP_SYS_NICE = 23, CAP_SYS_RESOURCE = 24,
	CAP_SYS_TTY_CONFIG = 26, CAP_MKNOD = 27,
	CAP_MAC_OVERRIDE = 32, CAP_WAKE_ALARM = 35, CAP_LAST = 40,
};
#define CAPABILITY(number) (1ull << (number))
#define ALL_CAPABILITIES (CAPABILITY(CAP_LAST + 1) - 1)
#define NO_ID (~0u) /* as a user or group: do not change it */

/* Of a user or of a group: `fs` is that of file system calls. */
struct ids {
	u32 real, effective, saved, fs;
};

struct groups {
	u32 references, count;
	u32 ids[];
};

struct cred {
	struct ids user, group;
	u64 inheritable, permitted, effective, bounding, ambient; /* sets of capabilities */
	u32 securebits;
	struct groups *groups; /* sorted, a reference; NULL: there are none */
};

/* Of securebits; each has a lock one bit higher. */
enum { SECURE_NOROOT = 1, SECURE_NO_SETUID_FIXUP = 4, SECURE_KEEP_CAPS = 16, SECURE_NO_AMBIENT_RAISE = 64 };

void cred_init(struct cred *cred, u32 user, u32 group);		 /* of the first task */
void cred_copy(struct cred *cred, const struct cred *from);
void cred_free(struct cred *cred);
void groups_sort(struct groups *groups);
void cred_change(struct task *t, const struct cred *new);	 /* takes over the reference to new groups */
bool cred_capable(const struct cred *cred, u32 capability);
bool cred_in_group(const struct cred *cred, u32 group, u32 own); /* own: the effective group, or fs */
const struct cred *cred_of(const struct process *p);		 /* also of a zombie */

/* Compute the credentials after an exec; returns whether the program must distrust its environment. */
bool cred_exec(const struct task *t, const struct inode *inode, const struct mount *mount, struct cred *new);
/* For access(), which checks the rights of the real user; the caller restores the credentials. */
void cred_use_real(struct cred *cred);

bool may_signal(const struct task *from, const struct process *to, int signal);
bool may_limit(const struct task *from, const struct process *to); /* read and set its resource limits */
bool same_owner(const struct task *t, const struct task *other); /* for priorities and CPUs */
/* Whether a task may inspect another one, by the rules of ptrace; fs: with its IDs for files. */
bool may_inspect(const struct task *from, const struct task *to, bool fs);
bool capable(u32 capability); /* of the current task */

#endif
