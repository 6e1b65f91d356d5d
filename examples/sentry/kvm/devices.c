// SPDX-License-Identifier: Apache-2.0
/*
 * Where the machine has its virtio-mmio devices: "virtio_mmio.device=SIZE@ADDRESS:PIN" on the command line, as Linux has
 * it, or devices "LNRO0005" in ACPI's DSDT.  There is its generation ID too.
 */
#include "kvm.h"

enum { RSDP_REVISION = 15, RSDP_RSDT = 16, RSDP_XSDT = 24, TABLE_SIZE = 4, TABLE_HEADER = 36, FADT_DSDT = 40, FADT_DSDT_64 = 140, FADT_REVISION_2 = 148 };
enum { MEMORY_32 = 0x86, INTERRUPT = 0x89, PACKAGE = 0x12, WORD_32 = 0x0c, MAX_BYTES = 96, MAX_DEVICES = 32 };

static u64 found[MAX_DEVICES];
static u32 count;

static void add(u64 address, u32 pin)
{
	if (count == MAX_DEVICES || address >= GIB4 || address % 4)
		return;
	found[count++] = address;
	pin_enable(pin);
}

/* -- the command line -- */

static u64 number(const char **text)
{
	const char *at = *text;
	u32 base = at[0] == '0' && at[1] == 'x' ? 16 : 10;
	u64 value = 0;

	for (at += base == 16 ? 2 : 0;; at++) {
		u32 digit = (u8)*at - (u32)'0';

		if (digit > 9)
			digit = ((u8)*at | 32) - (u32)'a' + 10;
		if (digit >= base)
			break;
		value = value * base + digit;
	}
	*text = at;
	return value;
}

static void read_command_line(const char *line)
{
	for (; *line && !(line[0] == '-' && line[1] == '-'); line++) {
		const char *at = skip_prefix(line, "virtio_mmio.device=");
		u64 address;

		if (!at)
			continue;
		for (; *at && *at != '@' && *at != ' '; at++)
			;
		if (*at++ != '@')
			continue;
		address = number(&at);
		if (*at++ == ':')
			add(address, (u32)number(&at));
	}
}

/* -- ACPI -- */

u32 acpi_word(const u8 *at)
{
	return at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24;
}

static const u8 *table(u64 address)
{
	return address && address < GIB4 - PAGE_SIZE ? (const u8 *)(DIRECT + address) : NULL;
}

static bool has_name(const u8 *at, const char *name)
{
	return skip_prefix((const char *)at, name);
}

/* The memory and the interrupt among the resources that follow a device's name. */
static void read_resources(const u8 *at, const u8 *end)
{
	u64 address = 0;

	for (u32 i = 0; i < MAX_BYTES && at + 9 <= end; i++, at++) {
		if (at[0] == MEMORY_32 && at[1] == 9 && !at[2] && at + 12 <= end) {
			address = acpi_word(at + 4);
			at += 11;
		} else if (address && at[0] == INTERRUPT && at[1] == 6 && !at[2] && at[4] == 1) {
			add(address, acpi_word(at + 5));
			return;
		}
	}
}

static void read_dsdt(const u8 *dsdt)
{
	const u8 *end = dsdt + acpi_word(dsdt + TABLE_SIZE);

	for (const u8 *at = dsdt + TABLE_HEADER; at + 9 < end; at++)
		if (has_name(at, "LNRO0005"))
			read_resources(at + 9, end);
}

/* The roots of old machines have addresses of 32 bits. */
const u8 *acpi_table(u64 rsdp, const char *name)
{
	const u8 *root = table(rsdp), *list;
	u32 size = 8;

	if (!root || !has_name(root, "RSD PTR "))
		return NULL;
	list = root[RSDP_REVISION] ? table(acpi_word(root + RSDP_XSDT)) : NULL;
	if (!list || !has_name(list, "XSDT")) {
		size = 4;
		list = table(acpi_word(root + RSDP_RSDT));
		if (!list || !has_name(list, "RSDT"))
			return NULL;
	}
	for (u32 at = TABLE_HEADER; at + size <= acpi_word(list + TABLE_SIZE); at += size) {
		const u8 *entry = table(acpi_word(list + at));

		if (entry && has_name(entry, name))
			return entry;
	}
	return NULL;
}

static const u8 *find_dsdt(u64 rsdp)
{
	const u8 *fadt = acpi_table(rsdp, "FACP"), *dsdt;

	if (!fadt)
		return NULL;
	dsdt = table(acpi_word(fadt + TABLE_SIZE) >= FADT_REVISION_2 ? acpi_word(fadt + FADT_DSDT_64) : 0);
	dsdt = dsdt ? dsdt : table(acpi_word(fadt + FADT_DSDT));
	return dsdt && has_name(dsdt, "DSDT") ? dsdt : NULL;
}

/* The first one of a package "ADDR" after a device's name: the second is 0 below 4 GiB. */
static u64 read_address(const u8 *at, const u8 *end)
{
	for (u32 i = 0; i < MAX_BYTES && at + 12 < end; i++, at++)
		if (has_name(at, "ADDR") && at[4] == PACKAGE && at[6] == 2 && at[7] == WORD_32)
			return acpi_word(at + 8);
	return 0;
}

const volatile u64 *find_generation(u64 rsdp)
{
	const u8 *dsdt = find_dsdt(rsdp), *end = dsdt ? dsdt + acpi_word(dsdt + TABLE_SIZE) : NULL;
	u64 address = 0;

	for (const u8 *at = dsdt ? dsdt + TABLE_HEADER : NULL; at + 9 < end && !address; at++)
		if (has_name(at, "VMGENCTR"))
			address = read_address(at, end);
	return address && address % 8 == 0 ? (const volatile u64 *)(DIRECT + address) : NULL;
}

const u64 *find_devices(const char *line, u64 rsdp, u32 *devices)
{
	const u8 *dsdt;

	read_command_line(line);
	dsdt = count ? NULL : find_dsdt(rsdp);
	if (dsdt)
		read_dsdt(dsdt);
	*devices = count;
	return found;
}
