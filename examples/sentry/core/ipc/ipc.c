// SPDX-License-Identifier: Apache-2.0
/* Keys, numbers and permissions of System V's objects. */
#include "../id_map.h"
#include "ipc.h"

enum { INDEX_BITS = 15, SEQUENCES = 1 << 16 };

s64 ipc_seconds(void)
{
	return (s64)(core.ops->nanoseconds(CLOCK_IS_REALTIME) / 1000000000);
}

void ipc_init(void)
{
	queues_init();
}

struct ipc_tables *ipc_own(void)
{
	return &space_of(core.current->process, SPACE_IPC)->ipc;
}

void ipc_free(struct ipc_tables *tables)
{
	shm_forget(&tables->shm);
	sem_forget(&tables->sem);
	msg_forget(&tables->msg);
	mq_forget(tables);
	kfree(tables->shm.slots);
	kfree(tables->sem.slots);
	kfree(tables->msg.slots);
}

static u32 index_of(s32 id)
{
	return (u32)id & ((1u << INDEX_BITS) - 1);
}

static struct ipc_object *ipc_at(const struct ipc_table *table, u32 index)
{
	return table->slots && index < IPC_MOST ? table->slots[index] : NULL;
}

struct ipc_object *ipc_next(const struct ipc_table *table, u32 *index)
{
	struct ipc_object *object = NULL;

	while (!object && *index < IPC_MOST)
		object = ipc_at(table, (*index)++);
	return object;
}

struct ipc_object *ipc_find(const struct ipc_table *table, s32 id)
{
	struct ipc_object *object = ipc_at(table, index_of(id));

	return object && object->id == id ? object : NULL;
}

struct ipc_object *ipc_of_stat(const struct ipc_table *table, s32 id, bool by_index)
{
	return by_index ? ipc_at(table, index_of(id)) : ipc_find(table, id);
}

s32 ipc_highest(const struct ipc_table *table)
{
	for (u32 i = IPC_MOST; i-- > 0;)
		if (ipc_at(table, i))
			return (s32)i;
	return 0;
}

s64 ipc_add(struct ipc_table *table, struct ipc_object *object, u32 key, u32 mode, u64 most)
{
	const struct cred *cred = &core.current->cred;
	u32 index = 0;

	if (!table->slots)
		table->slots = kmalloc(IPC_MOST * sizeof(struct ipc_object *));
	if (!table->slots)
		return -ENOMEM;
	while (index < IPC_MOST && table->slots[index])
		index++;
	if (index == IPC_MOST || table->count >= most)
		return -ENOSPC;
	if (index <= table->last)
		table->sequence = (table->sequence + 1) % SEQUENCES;
	table->last = index;
	table->slots[index] = object;
	object->table = table;
	table->count++;
	object->id = (s32)(table->sequence << INDEX_BITS | index);
	object->key = key;
	object->mode = mode & 0777;
	object->user = object->creator = cred->user.effective;
	object->group = object->creator_group = cred->group.effective;
	return object->id;
}

void ipc_remove(struct ipc_object *object)
{
	object->table->slots[index_of(object->id)] = NULL;
	object->table->count--;
}

s64 ipc_get(const struct ipc_table *table, u32 key, u32 flags, struct ipc_object **found)
{
	*found = NULL;
	if (!key)
		return 0;
	for (u32 i = 0; table->slots && i < IPC_MOST; i++)
		if (table->slots[i] && table->slots[i]->key == key)
			*found = table->slots[i];
	if (!*found)
		return flags & IPC_CREAT ? 0 : -ENOENT;
	return (flags & (IPC_CREAT | IPC_EXCL)) == (IPC_CREAT | IPC_EXCL) ? -EEXIST : (*found)->id;
}

bool ipc_allowed(const struct ipc_object *object, u32 wanted)
{
	const struct cred *cred = &core.current->cred;
	u32 needed = wanted >> 6 | wanted >> 3 | wanted, granted = object->mode;

	if (cred->user.effective == object->creator || cred->user.effective == object->user)
		granted >>= 6;
	else if (cred_in_group(cred, object->creator_group, cred->group.effective) ||
		 cred_in_group(cred, object->group, cred->group.effective))
		granted >>= 3;
	return !(needed & ~granted & 7) || capable(CAP_IPC_OWNER);
}

bool ipc_owned(const struct ipc_object *object)
{
	u32 user = core.current->cred.user.effective;

	return user == object->creator || user == object->user || capable(CAP_SYS_ADMIN);
}

static void put_value(struct text *text, s64 value)
{
	text_put(text, " ");
	text_signed(text, value);
}

void ipc_show(struct text *text, const struct ipc_object *object, const s64 *values, u32 count)
{
	const u32 owners[] = { object->user, object->group, object->creator, object->creator_group };

	text_signed(text, (s32)object->key);
	put_value(text, object->id);
	text_put(text, " ");
	text_octal(text, object->mode & 07777, 1);
	for (u32 i = 0; i < count; i++) {
		if (values[i] != OWNERS) {
			put_value(text, values[i]);
			continue;
		}
		for (u32 j = 0; j < ARRAY_SIZE(owners); j++)
			put_value(text, owners[j]);
	}
	text_put(text, "\n");
}

s64 ipc_set(struct ipc_object *object, const struct ipc_perm *new)
{
	if (!id_map_has(&id_maps.users, new->user) || !id_map_has(&id_maps.groups, new->group))
		return -EINVAL;
	object->user = new->user;
	object->group = new->group;
	object->mode = (object->mode & ~0777u) | (new->mode & 0777);
	return 0;
}

struct ipc_perm ipc_perm_of(const struct ipc_object *object)
{
	return (struct ipc_perm){
		.key = object->key, .user = object->user, .group = object->group, .creator = object->creator,
		.creator_group = object->creator_group, .mode = object->mode, .sequence = (u16)(object->id >> INDEX_BITS),
	};
}
