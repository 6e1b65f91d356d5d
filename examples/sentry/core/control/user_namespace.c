// SPDX-License-Identifier: Apache-2.0
/* The user namespace of a specification. All containers of a sandbox are in the same one, which the first of them makes. */
#include "../id_map.h"
#include "../slab.h"
#include "container.h"

static bool decided; /* there has been a container */

static struct id_range read_range(struct reader r)
{
	struct id_range range = { 0, 0, 0 };
	struct field field;

	while (field_next(&r, &field))
		switch (field.number) {
		case LinuxIDMapping_HostID: range.outside = (u32)field.value; break;
		case LinuxIDMapping_ContainerID: range.inside = (u32)field.value; break;
		case LinuxIDMapping_Size: range.count = (u32)field.value; break;
		}
	return range;
}

static s64 read_map(struct reader linux_part, u32 number, struct id_map *map)
{
	struct field field;
	struct reader r = linux_part;
	u32 count = 0;

	while (field_next(&r, &field))
		count += field.number == number;
	if (count > ID_RANGES)
		return -EINVAL;
	map->ranges = count ? kmalloc(count * sizeof(*map->ranges)) : NULL;
	if (count && !map->ranges)
		return -ENOMEM;
	while (field_next(&linux_part, &field))
		if (field.number == number)
			map->ranges[map->count++] = read_range(field.bytes);
	return id_map_valid(map) ? 0 : -EINVAL;
}

/* Whether it joins the namespace of another container, whose maps it need not repeat. */
static bool joins(struct reader linux_part)
{
	struct field field;

	while (field_next(&linux_part, &field)) {
		const struct reader type = reader_part(field.bytes, LinuxNamespace_Type);
		const struct reader path = reader_part(field.bytes, LinuxNamespace_Path);

		if (field.number == Linux_Namespaces && reader_is(&type, "user") && reader_size(&path))
			return true;
	}
	return false;
}

static s64 use(struct call *call, struct id_maps *maps, bool join)
{
	if (!decided) {
		decided = true;
		id_maps = *maps;
		return 0;
	}
	if (!(join && !maps->users.count && !maps->groups.count) && !id_maps_equal(maps, &id_maps)) {
		call_fail(call, STATUS_FAILED_PRECONDITION,
			  "linux.uidMappings: all containers of a Sentry are in the same user namespace", NULL, NULL);
		id_maps_free(maps);
		return -EINVAL;
	}
	id_maps_free(maps);
	return 0;
}

s64 user_namespace_read(struct call *call, struct reader spec)
{
	const struct reader linux_part = reader_part(spec, Spec_Linux);
	struct id_maps maps = { .users = { .count = 0 } };
	s64 error = read_map(linux_part, Linux_UIDMappings, &maps.users);

	if (!error)
		error = read_map(linux_part, Linux_GIDMappings, &maps.groups);
	if (!error && !maps.users.count != !maps.groups.count)
		error = -EINVAL;
	if (!error)
		return use(call, &maps, joins(linux_part));
	id_maps_free(&maps);
	return call_fail(call, STATUS_INVALID_ARGUMENT, "linux.uidMappings: ", error_text(error), NULL) + error;
}
