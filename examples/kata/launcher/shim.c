// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-shim-client WARM PYTHON SCRIPT -- COMMAND LINE: the launcher of the containerd shim. It handles containerd's
 * `start` for a container whose pod already has a shim, which is every container but the first: it finds the shim and
 * prints its address. For the first container, a process of the pool becomes the shim, if there is a pool (pool.c).
 *
 * For everything else the launcher starts the whole containerd-shim-pyvmm-v2, SCRIPT: a shim by WARM, from a process
 * image, other commands by PYTHON -IS.
 *
 * It must find the same shim as pyvmm_kata.shim.bootstrap, which documents the rules.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ROOT "/run/pyvmm/shim"
#define FAILED 255
#define COMMAND_LINE 5 /* its index in argv */
#define CONFIG_MAX (16 << 20)
#define DEPTH_MAX 100
#define DIGEST 16

static const char *const groups[] = {
	"io.containerd.runc.v2.group",
	"io.kubernetes.cri.sandbox-id",
	"io.kubernetes.cri-o.SandboxID",
};
#define GROUPS (sizeof(groups) / sizeof(groups[0]))

struct arguments {
	const char *id, *name_space, *address, *bundle;
	bool for_version_3;
};

/* -- the command line ---------------------------------------------------------------------------------------------- */

/* Parse flags in Go's syntax: -id ID, --id ID, -id=ID. False: not a `start`, or an invalid one. */
static bool arguments_parse(char *const *argv, struct arguments *arguments)
{
	const char *ignored;
	const struct {
		const char *name, **value;
	} flags[] = {
		{ "id", &arguments->id },		{ "namespace", &arguments->name_space },
		{ "address", &arguments->address },	{ "bundle", &arguments->bundle },
		{ "publish-binary", &ignored },
	};
	const char *version = getenv("MAX_SHIM_VERSION");

	*arguments = (struct arguments){ "", "", "", "", false };
	while (*argv && (*argv)[0] == '-') {
		const char *name = *argv + 1 + ((*argv)[1] == '-'), *value = strchr(name, '=');
		const size_t length = value ? (size_t)(value - name) : strlen(name);
		size_t i;

		argv++;
		if (!strcmp(name, "debug"))
			continue;
		for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
			if (strlen(flags[i].name) == length && !memcmp(flags[i].name, name, length))
				break;
		}
		if (i == sizeof(flags) / sizeof(flags[0]) || (!value && !*argv))
			return false;
		*flags[i].value = value ? value + 1 : *argv++;
	}
	if (version && strcmp(version, "2") && strcmp(version, "3"))
		return false;
	arguments->for_version_3 = version && *version == '3';
	if (!*arguments->bundle)
		arguments->bundle = ".";
	return *argv && !strcmp(*argv, "start") && !argv[1] && *arguments->id && !strchr(arguments->id, '/') &&
	       *arguments->name_space;
}

/* -- config.json --------------------------------------------------------------------------------------------------- */

/* A raw JSON string, without its quotes. */
struct text {
	const char *start;
	size_t length;
};

/* A bounded JSON reader: it never reads past `end`. After an error, `at` equals `end`. */
struct reader {
	const char *at, *end;
	bool wrong;
};

static bool reader_fail(struct reader *reader)
{
	reader->at = reader->end;
	reader->wrong = true;
	return false;
}

/* The next character that is not a space, without consuming it; '\0': none. */
static char reader_peek(struct reader *reader)
{
	while (reader->at < reader->end && *reader->at && strchr(" \t\n\r", *reader->at))
		reader->at++;
	return reader->at < reader->end ? *reader->at : '\0';
}

static bool reader_take(struct reader *reader, char wanted)
{
	if (reader_peek(reader) != wanted)
		return false;
	reader->at++;
	return true;
}

static bool string_read(struct reader *reader, struct text *text)
{
	if (!reader_take(reader, '"'))
		return reader_fail(reader);
	text->start = reader->at;
	while (reader->at < reader->end && *reader->at != '"')
		reader->at += *reader->at == '\\' ? 2 : 1;
	if (reader->at >= reader->end)
		return reader_fail(reader);
	text->length = reader->at++ - text->start;
	return true;
}

/* Skip a value of any type. */
static bool value_skip(struct reader *reader)
{
	unsigned int depth = 0;
	struct text text;

	do {
		const char next = reader_peek(reader);

		if (next == '"') {
			if (!string_read(reader, &text))
				return false;
		} else if (next == '{' || next == '[') {
			reader->at++;
			if (++depth > DEPTH_MAX)
				return reader_fail(reader);
		} else if (next == '}' || next == ']') {
			if (!depth--)
				return reader_fail(reader);
			reader->at++;
		} else if (depth && (next == ',' || next == ':')) {
			reader->at++;
		} else {
			const char *start = reader->at;

			while (reader->at < reader->end && *reader->at > ' ' && !strchr(",:]}[{\"", *reader->at))
				reader->at++;
			if (reader->at == start)
				return reader_fail(reader);
		}
	} while (depth);
	return true;
}

/* Read the next name in an object after its '{'; its value follows. False: no more names. */
static bool name_read(struct reader *reader, bool *first, struct text *name)
{
	const bool is_first = *first;

	*first = false;
	if (reader_take(reader, '}'))
		return false;
	if (!is_first && !reader_take(reader, ','))
		return reader_fail(reader);
	if (!string_read(reader, name) || !reader_take(reader, ':'))
		return reader_fail(reader);
	/* An escaped name could be one of those sought. */
	return !memchr(name->start, '\\', name->length) || reader_fail(reader);
}

static bool text_is(const struct text *text, const char *name)
{
	return strlen(name) == text->length && !memcmp(name, text->start, text->length);
}

static void annotations_read(struct reader *reader, struct text found[GROUPS])
{
	bool first = true;
	struct text name, value;

	if (!reader_take(reader, '{')) {
		reader_fail(reader);
		return;
	}
	while (name_read(reader, &first, &name)) {
		size_t i = 0;

		while (i < GROUPS && !text_is(&name, groups[i]))
			i++;
		if (i == GROUPS) {
			value_skip(reader);
		} else if (string_read(reader, &value)) {
			if (found[i].start || memchr(value.start, '\\', value.length))
				reader_fail(reader);
			found[i] = value;
		}
	}
}

/* Find the pod that a config.json names. False: none, or in a form that is not supported here. */
static bool group_find(const char *config, size_t size, struct text *group)
{
	struct reader reader = { config, config + size, false };
	struct text name, found[GROUPS] = { 0 };
	bool first = true, seen = false;

	if (!reader_take(&reader, '{'))
		return false;
	while (name_read(&reader, &first, &name)) {
		if (!text_is(&name, "annotations")) {
			value_skip(&reader);
		} else if (seen) {
			reader_fail(&reader);
		} else {
			seen = true;
			annotations_read(&reader, found);
		}
	}
	if (reader.wrong || reader_peek(&reader))
		return false;
	for (size_t i = 0; i < GROUPS; i++) {
		if (found[i].length) {
			*group = found[i];
			return true;
		}
	}
	return false;
}

/* -- finding the pod's shim ------------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t word, unsigned int by)
{
	return word >> by | word << (64 - by);
}

static void mix(uint64_t v[16], int a, int b, int c, int d, uint64_t x, uint64_t y)
{
	v[a] += v[b] + x;
	v[d] = rotate(v[d] ^ v[a], 32);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 24);
	v[a] += v[b] + y;
	v[d] = rotate(v[d] ^ v[a], 16);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 63);
}

/* BLAKE2b without a key (RFC 7693). */
static void blake2b(const uint8_t *data, size_t size, uint8_t digest[DIGEST])
{
	static const uint64_t start[8] = {
		0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
		0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
	};
	static const uint8_t order[10][16] = {
		{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
		{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
		{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
		{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
		{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
		{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
		{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
		{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
		{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
		{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
	};
	uint64_t state[8], v[16], words[16], done = 0;

	memcpy(state, start, sizeof(state));
	state[0] ^= 0x01010000 ^ DIGEST;
	do {
		const size_t now = size - done < sizeof(words) ? size - done : sizeof(words);

		memset(words, 0, sizeof(words));
		memcpy(words, data + done, now);
		done += now;
		memcpy(v, state, sizeof(state));
		memcpy(v + 8, start, sizeof(start));
		v[12] ^= done;
		if (done == size)
			v[14] = ~v[14];
		for (int round = 0; round < 12; round++) {
			const uint8_t *s = order[round % 10];

			for (int i = 0; i < 4; i++)
				mix(v, i, 4 + i, 8 + i, 12 + i, words[s[2 * i]], words[s[2 * i + 1]]);
			for (int i = 0; i < 4; i++)
				mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, words[s[8 + 2 * i]],
				    words[s[9 + 2 * i]]);
		}
		for (int i = 0; i < 8; i++)
			state[i] ^= v[i] ^ v[i + 8];
	} while (done < size);
	memcpy(digest, state, DIGEST);
}

/* Compute the socket path of a pod's shim. */
static bool socket_path(const struct arguments *arguments, const struct text *group, char *path, size_t size)
{
	uint8_t digest[DIGEST];
	char *words;
	int length = asprintf(&words, "%s%c%s%c%.*s", arguments->address, 0, arguments->name_space, 0, (int)group->length,
			      group->start);

	if (length < 0)
		return false;
	blake2b((const uint8_t *)words, length, digest);
	free(words);
	path += snprintf(path, size, ROOT "/");
	for (int i = 0; i < DIGEST; i++)
		path += sprintf(path, "%02x", digest[i]);
	strcpy(path, "/shim.sock");
	return true;
}

static bool is_served(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool served;

	strcpy(address.sun_path, path);
	served = fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address));
	if (fd >= 0)
		close(fd);
	return served;
}

/* Write the file that containerd before 2.0 reads to find the shim after a restart. */
static bool address_write(int bundle, const char *path)
{
	int fd = openat(bundle, "address", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	bool written = fd >= 0 && dprintf(fd, "unix://%s", path) > 0;

	return fd >= 0 && !close(fd) && written;
}

/* Answer a `start`. True: done. */
static bool start(const struct arguments *arguments)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int bundle = open(arguments->bundle, O_PATH | O_DIRECTORY | O_CLOEXEC), fd;
	struct text group;
	struct stat info;
	char *config;

	fd = bundle < 0 ? -1 : openat(bundle, "config.json", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &info) || !S_ISREG(info.st_mode) || !info.st_size || info.st_size > CONFIG_MAX)
		return false;
	config = malloc(info.st_size);
	if (!config || read(fd, config, info.st_size) != info.st_size)
		return false;
	close(fd);
	if (!group_find(config, info.st_size, &group) || !socket_path(arguments, &group, path, sizeof(path)) ||
	    !is_served(path))
		return false;
	if (arguments->for_version_3)
		return printf("{\"version\": 3, \"address\": \"unix://%s\", \"protocol\": \"ttrpc\"}", path) > 0;
	return address_write(bundle, path) && printf("unix://%s", path) > 0;
}

/*
 * containerd's plugin "opt" puts DIR/bin first in PATH and DIR/lib first in LD_LIBRARY_PATH, where DIR is
 * /opt/containerd. The old value follows; an empty one stands for the current folder. Neither contains a library of
 * ours, and LD_LIBRARY_PATH prevents starts from a process image.
 */
static void libraries_leave(void)
{
	const char *path = getenv("PATH"), *libraries = getenv("LD_LIBRARY_PATH");
	const size_t length = libraries ? strcspn(libraries, ":") : 0;
	char *rest;

	if (!path || length < 4 || strncmp(libraries + length - 4, "/lib", 4) || strncmp(path, libraries, length - 3) ||
	    strncmp(path + length - 3, "bin", 3) || (path[length] && path[length] != ':'))
		return;
	rest = strdup(libraries + length + (libraries[length] == ':'));
	if (!rest || !*rest)
		unsetenv("LD_LIBRARY_PATH");
	else
		setenv("LD_LIBRARY_PATH", rest, 1);
	free(rest);
}

int main(int argc, char *argv[])
{
	struct arguments arguments;
	bool starts;

	if (argc < COMMAND_LINE || strcmp(argv[COMMAND_LINE - 1], "--")) {
		fprintf(stderr, "usage: %s WARM PYTHON SCRIPT -- COMMAND LINE\n", argv[0]);
		return FAILED;
	}
	caches_place();
	libraries_leave();
	starts = arguments_parse(argv + COMMAND_LINE, &arguments);
	if (starts) {
		if (start(&arguments))
			return fflush(stdout) ? FAILED : 0;
		if (shim_by_pool(argv + COMMAND_LINE))
			return 0;
	}
	return whole_run(argv, starts);
}
