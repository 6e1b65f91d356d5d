// SPDX-License-Identifier: Apache-2.0
/*
 * Extended attributes, POSIX ACLs among them.
 *
 * The system calls take no O_PATH descriptor. But the thread's working directory is /proc/self/fd, where the number of a
 * descriptor is a path to its file, of any type, without opening it.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/xattr.h>
#include <string.h>
#include <sys/xattr.h>

/* The name at the offset `at` of the arguments; NULL and *err: it is not valid. *end: the offset behind it. */
static const char *xattr_name(const struct fs_req *r, uint32_t at, uint32_t *end, int *err)
{
	const char *name = (const char *)r->arg + at;
	const char *nul = at < r->arg_len ? memchr(name, 0, r->arg_len - at) : NULL;

	*err = !nul || nul == name ? -EINVAL : nul - name > XATTR_NAME_MAX ? -ERANGE : 0;
	if (*err)
		return NULL;
	*end = at + (uint32_t)(nul - name) + 1;
	return name;
}

static bool is_acl(const char *name)
{
	return !strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) || !strcmp(name, XATTR_NAME_POSIX_ACL_DEFAULT);
}

/* Translate the ids in an ACL between guest and host. */
static int acl_translate(const struct fs *fs, uint8_t *acl, size_t len, bool to_host)
{
	struct posix_acl_xattr_entry e;
	const struct fs_ids *ids;
	uint32_t id;
	int err;

	if (!fs->config.users.nmaps && !fs->config.groups.nmaps)
		return 0;
	for (size_t at = sizeof(struct posix_acl_xattr_header); at + sizeof(e) <= len; at += sizeof(e)) {
		memcpy(&e, acl + at, sizeof(e));
		if (e.e_tag != ACL_USER && e.e_tag != ACL_GROUP)
			continue;
		ids = e.e_tag == ACL_USER ? &fs->config.users : &fs->config.groups;
		id = e.e_id;
		if (to_host) {
			err = fs_id_to_host(ids, id, &id);
			if (err)
				return err;
		} else {
			id = fs_id_to_guest(ids, id);
		}
		e.e_id = id;
		memcpy(acl + at, &e, sizeof(e));
	}
	return 0;
}

/* Clear set-group-id, as chmod() does for a user who is not in the file's group. */
static int drop_setgid(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (!(st.st_mode & S_ISGID))
		return 0;
	return chmod(path, st.st_mode & 07777 & ~(mode_t)S_ISGID) < 0 ? -errno : 0;
}

int fs_op_setxattr(struct fs_req *r)
{
	const struct fuse_setxattr_in *in = r->arg;
	bool ext = fs_has(r->fs, FUSE_SETXATTR_EXT);
	uint32_t fixed = ext ? sizeof(*in) : FUSE_COMPAT_SETXATTR_IN_SIZE, at;
	struct fs_fd_name path;
	struct fs_ref ref;
	const char *name;
	uint8_t *value;
	int err;

	name = xattr_name(r, fixed, &at, &err);
	if (!name)
		return err;
	if (in->size > FS_XATTR_MAX)
		return -E2BIG;
	if (in->size != r->arg_len - at)
		return -EINVAL;
	value = r->q->buf + at;
	if (is_acl(name)) {
		if (!fs_has(r->fs, FUSE_POSIX_ACL))
			return -EOPNOTSUPP;
		err = acl_translate(r->fs, value, in->size, true);
		if (err)
			return err;
	}
	err = fs_node_get(r->fs, r->in.nodeid, &ref);
	if (err)
		return err;
	path = fs_fd_name(ref.fd);
	err = setxattr(path.text, name, value, in->size, (int)in->flags) < 0 ? -errno : 0;
	if (!err && ext && in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID && !strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS))
		err = drop_setgid(path.text);
	fs_node_put(r->fs, &ref);
	return err;
}

/* Answer with the n bytes in q->out; or, if the guest asked for 0 bytes, with their number. */
static int reply_value(struct fs_req *r, uint32_t size, ssize_t n)
{
	struct fuse_getxattr_out out = { .size = (uint32_t)n };

	if (n < 0)
		return (int)n;
	return size ? fs_reply(r, r->q->out, (size_t)n) : fs_reply(r, &out, sizeof(out));
}

/* Parse a request that ends with a name at the offset `at`; get the name and its node. */
static int xattr_get_node(struct fs_req *r, uint32_t at, const char **name, struct fs_ref *ref)
{
	uint32_t end;
	int err;

	*name = xattr_name(r, at, &end, &err);
	if (!*name)
		return err;
	if (end != r->arg_len)
		return -EINVAL;
	if (is_acl(*name) && !fs_has(r->fs, FUSE_POSIX_ACL))
		return -EOPNOTSUPP;
	return fs_node_get(r->fs, r->in.nodeid, ref);
}

int fs_op_getxattr(struct fs_req *r)
{
	const struct fuse_getxattr_in *in = r->arg;
	size_t room = in->size < FS_XATTR_MAX ? in->size : FS_XATTR_MAX;
	struct fs_ref ref;
	const char *name;
	ssize_t n;
	int err;

	err = xattr_get_node(r, sizeof(*in), &name, &ref);
	if (err)
		return err;
	n = getxattr(fs_fd_name(ref.fd).text, name, r->q->out, room);
	if (n < 0)
		n = -errno;
	fs_node_put(r->fs, &ref);
	if (n > 0 && room && is_acl(name))
		acl_translate(r->fs, r->q->out, (size_t)n, false);
	return reply_value(r, in->size, n);
}

int fs_op_listxattr(struct fs_req *r)
{
	const struct fuse_getxattr_in *in = r->arg;
	size_t room = in->size < FS_XATTR_MAX ? in->size : FS_XATTR_MAX;
	struct fs_ref ref;
	ssize_t n;
	int err = fs_node_get(r->fs, r->in.nodeid, &ref);

	if (err)
		return err;
	n = listxattr(fs_fd_name(ref.fd).text, (char *)r->q->out, room);
	if (n < 0)
		n = -errno;
	fs_node_put(r->fs, &ref);
	return reply_value(r, in->size, n);
}

int fs_op_removexattr(struct fs_req *r)
{
	struct fs_ref ref;
	const char *name;
	int err;

	err = xattr_get_node(r, 0, &name, &ref);
	if (err)
		return err;
	err = removexattr(fs_fd_name(ref.fd).text, name) < 0 ? -errno : 0;
	fs_node_put(r->fs, &ref);
	return err;
}
