// SPDX-License-Identifier: Apache-2.0
/*
 * The allocator for connections. It replaces malloc(), so that the thread needs no brk, mprotect or mremap, and memory that
 * a guest causes to be allocated is apart from all other memory.
 *
 * Blocks of the small sizes (VSOCK_CLASS_SIZES) are cut from pieces that are freed with the device; each larger block is a
 * mapping. Blocks are zero.
 */
#include "vsock/vsock.h"

#include <string.h>
#include <sys/mman.h>

enum { PIECE = 64 << 10, LINE = 64 };

struct vsock_piece {
	struct vsock_piece *next;
};

/* A free block begins with a pointer to the next one. */
struct free_block {
	struct free_block *next;
};

static void *pages_map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* The class of small blocks for a size; -1: a mapping. */
static int class_of(size_t size)
{
	static const size_t sizes[VSOCK_CLASSES] = VSOCK_CLASS_SIZES;

	for (int i = 0; i < VSOCK_CLASSES; i++)
		if (size <= sizes[i])
			return i;
	return -1;
}

static bool class_grow(struct vsock *v, int class)
{
	static const size_t sizes[VSOCK_CLASSES] = VSOCK_CLASS_SIZES;
	struct vsock_piece *piece = pages_map(PIECE);

	if (!piece)
		return false;
	piece->next = v->pieces;
	v->pieces = piece;
	for (size_t at = LINE; at + sizes[class] <= PIECE; at += sizes[class]) {
		struct free_block *block = (void *)((char *)piece + at);

		block->next = v->free_block[class];
		v->free_block[class] = block;
	}
	return true;
}

void *vsock_alloc(struct vsock *v, size_t size)
{
	int class = class_of(size);
	struct free_block *block;

	if (class < 0)
		return pages_map(pages_round(size));
	if (!v->free_block[class] && !class_grow(v, class))
		return NULL;
	block = v->free_block[class];
	v->free_block[class] = block->next;
	memset(block, 0, size);
	return block;
}

void vsock_release(struct vsock *v, void *at, size_t size)
{
	int class = class_of(size);
	struct free_block *block = at;

	if (!at)
		return;
	if (class < 0) {
		munmap(at, pages_round(size));
		return;
	}
	block->next = v->free_block[class];
	v->free_block[class] = block;
}

void *vsock_realloc(struct vsock *v, void *at, size_t size, size_t wanted)
{
	void *fresh = vsock_alloc(v, wanted);

	if (!fresh)
		return NULL;
	if (at)
		memcpy(fresh, at, size < wanted ? size : wanted);
	vsock_release(v, at, size);
	return fresh;
}

void vsock_memory_free(struct vsock *v)
{
	while (v->pieces) {
		struct vsock_piece *piece = v->pieces;

		v->pieces = piece->next;
		munmap(piece, PIECE);
	}
	memset(v->free_block, 0, sizeof(v->free_block));
}
