// SPDX-License-Identifier: Apache-2.0
/* Starts programs that cannot be started, and some that can, and prints what each call returns. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "report.h"

static char *const arguments[] = { "program", "again", NULL }, *const environment[] = { "NAME=value", NULL };
static char large[200000];

static void make(const char *path, const void *content, size_t size)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0755);

	write(fd, content, size);
	fchmod(fd, 0755);
	close(fd);
}

static void make_copy(void)
{
	int from = open("/proc/self/exe", O_RDONLY), to = open("copy", O_CREAT | O_WRONLY, 0755);
	struct stat status;

	fstat(from, &status);
	sendfile(to, from, NULL, (size_t)status.st_size);
	close(from);
	close(to);
}

/* An ELF file with a program header that is wrong in one way. */
static void make_elf(const char *path, void (*change)(Elf64_Ehdr *header, Elf64_Phdr *program))
{
	struct {
		Elf64_Ehdr header;
		Elf64_Phdr program[2];
		char text[64];
	} file = { 0 };

	memcpy(file.header.e_ident, ELFMAG, SELFMAG);
	file.header.e_ident[EI_CLASS] = ELFCLASS64;
	file.header.e_ident[EI_DATA] = ELFDATA2LSB;
	file.header.e_type = ET_EXEC;
	file.header.e_machine = EM_X86_64;
	file.header.e_version = 1;
	file.header.e_phoff = sizeof(file.header);
	file.header.e_phentsize = sizeof(file.program[0]);
	file.header.e_phnum = 2;
	file.program[0] = (Elf64_Phdr){ PT_LOAD, PF_R | PF_X, 0, 0x10000000, 0, sizeof(file), sizeof(file), 4096 };
	file.program[1] = (Elf64_Phdr){ PT_INTERP, PF_R, __builtin_offsetof(__typeof__(file), text), 0, 0, sizeof(file.text), 0, 1 };
	strcpy(file.text, "absent");
	change(&file.header, file.program);
	make(path, &file, sizeof(file));
}

static void keep(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)header, (void)program;
}

static void other_machine(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)program;
	header->e_machine = EM_AARCH64;
}

static void other_type(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)program;
	header->e_type = ET_REL;
}

static void no_headers(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)program;
	header->e_phnum = 0;
}

static void other_size(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)program;
	header->e_phentsize = 32;
}

static void far_headers(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)program;
	header->e_phoff = 1 << 20;
}

static void endless_interpreter(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)header;
	program[1].p_filesz = 8; /* without its zero */
	memset((char *)header + program[1].p_offset, 'x', 8);
}

static void small_interpreter(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)header;
	program[1].p_filesz = 1;
}

static void large_interpreter(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	(void)header;
	program[1].p_filesz = 5000;
}

static void interpreter_text(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	strcpy((char *)header + program[1].p_offset, "text");
}

static void interpreter_is_directory(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	strcpy((char *)header + program[1].p_offset, "dir");
}

static void interpreter_wrong(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	strcpy((char *)header + program[1].p_offset, "machine");
}

static void interpreter_short(Elf64_Ehdr *header, Elf64_Phdr *program)
{
	strcpy((char *)header + program[1].p_offset, "short");
}

static void make_all(void)
{
	make("empty", "", 0);
	make("text", "just a text\n", 12);
	make("binary", "\0\1\2\3", 4);
	make("short", "\177ELF", 4);
	make("script", "#!absent\n", 9);
	make("script-of-directory", "#!dir\n", 6);
	make("script-of-text", "#!text\n", 7);
	make("script-of-nothing", "#! \n", 4);
	make("script-of-itself", "#!script-of-itself\n", 19);
	make("closed", "#!absent\n", 9);
	chmod("closed", 0644);
	mkdir("dir", 0755);
	mkdir("private", 0700);
	make("private/text", "x", 1);
	make_copy();
	make_elf("interpreter-absent", keep);
	make_elf("machine", other_machine);
	make_elf("type", other_type);
	make_elf("no-headers", no_headers);
	make_elf("other-size", other_size);
	make_elf("far-headers", far_headers);
	make_elf("endless-interpreter", endless_interpreter);
	make_elf("small-interpreter", small_interpreter);
	make_elf("large-interpreter", large_interpreter);
	make_elf("interpreter-text", interpreter_text);
	make_elf("interpreter-directory", interpreter_is_directory);
	make_elf("interpreter-wrong", interpreter_wrong);
	make_elf("interpreter-short", interpreter_short);
}

static void try_files(void)
{
	static const char *const names[] = {
		"empty", "text", "binary", "short", "script", "script-of-directory", "script-of-text", "script-of-nothing",
		"script-of-itself", "closed", "dir", "private/text", "interpreter-absent", "machine", "type", "no-headers", "other-size",
		"far-headers", "endless-interpreter", "small-interpreter", "large-interpreter", "interpreter-text",
		"interpreter-directory", "interpreter-wrong", "interpreter-short",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		printf("%s\n", names[i]);
		TRY(execve, names[i], arguments, environment);
		TRY(execveat, AT_FDCWD, names[i], arguments, environment, 0);
	}
}

static void try_arguments(void)
{
	char *many[] = { "program", large, NULL }, *bad[] = { "program", BAD, NULL };
	int file = open("copy", O_RDONLY), script = open("script", O_RDONLY | O_CLOEXEC), writable;

	TRY(execve, "copy", BAD, environment);
	TRY(execve, "copy", bad, environment);
	TRY(execve, "copy", arguments, BAD);
	TRY(execve, "copy", arguments, bad);
	TRY(execveat, AT_FDCWD, "copy", bad, environment, 0);
	TRY(execve, "copy", many, environment);
	TRY(execveat, AT_FDCWD, "copy", many, environment, 0);
	TRY(execveat, AT_FDCWD, "copy", arguments, environment, 1);
	TRY(execveat, file, "", arguments, environment, 0);
	TRY(execveat, file, "x", arguments, environment, 0);
	TRY(execveat, 99, "", arguments, environment, AT_EMPTY_PATH);
	TRY(execveat, script, "", arguments, environment, AT_EMPTY_PATH);
	writable = open("copy", O_WRONLY);
	TRY(execve, "copy", arguments, environment);
	TRY(execveat, AT_FDCWD, "copy", arguments, environment, 0);
	close(writable);
	IN_CHILD {
		setrlimit(RLIMIT_STACK, &(struct rlimit){ 64 << 10, 64 << 10 });
		memset(large, 'x', 100000);
		TRY(execve, "copy", many, environment);
	}
}

/* The copy of this program, in which its file is busy. */
static int again(void)
{
	setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
	TRY(open, "copy", O_WRONLY);
	TRY(open, "copy", O_RDWR | O_TRUNC);
	TRY(openat, AT_FDCWD, "copy", O_WRONLY);
	TRY(openat2, AT_FDCWD, "copy", ((unsigned long[]){ O_WRONLY, 0, 0 }), 24);
	TRY(creat, "copy", 0755);
	TRY(truncate, "copy", 0);
	TRY(access, "copy", W_OK);
	TRY(open, "/proc/self/exe", O_WRONLY);
	TRY(unlink, "copy");
	return 7;
}

static void start_again(const char *how)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (!child && *how == 'n')
		syscall(SYS_execve, "copy", arguments, environment);
	else if (!child)
		syscall(SYS_execveat, open("copy", O_RDONLY), "", arguments, environment, AT_EMPTY_PATH);
	waitpid(child, &status, 0);
	printf("%s: %x\n", how, status);
}

/* The group of a child changes until it has started another program. */
static void try_group(void)
{
	int ready[2];
	pid_t child;

	pipe(ready);
	fflush(stdout);
	child = fork();
	if (!child) {
		dup2(ready[1], 1);
		syscall(SYS_execve, "copy", ((char *[]){ "program", "again", "wait", NULL }), environment);
	}
	read(ready[0], large, 1);
	show(__LINE__, "setpgid(child, child)", syscall(SYS_setpgid, child, child));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc == 3) { /* report the start, and wait */
		write(1, "x", 1);
		pause();
	}
	if (argc == 2 && !strcmp(argv[1], "again"))
		return again();
	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	memset(large, 'x', sizeof(large) - 1);
	make_all();
	try_files();
	try_arguments();
	try_group();
	start_again("name");
	make_copy();
	start_again("descriptor");
	IN_CHILD {
		become(NOBODY);
		TRY(execve, "private/text", arguments, environment);
		TRY(execveat, AT_FDCWD, "private/text", arguments, environment, 0);
		TRY(execve, "closed", arguments, environment);
	}
	return 42;
}
