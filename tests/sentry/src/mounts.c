// SPDX-License-Identifier: Apache-2.0
/* mount, umount2, pivot_root and chroot, by root in a mount namespace of its own. The argument is a new folder. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include "report.h"

static const char *folder;
static char buffer[4096];

/* What /proc/self/mountinfo shows below the folder: root, place, flags, type, source, and whether it is read-only. */
static void show_mounts(int line)
{
	FILE *file = fopen("/proc/self/mountinfo", "r");
	char text[4096], root[1024], place[1024], flags[256], type[64], source[1024], super[1024];

	printf("%d mounts:\n", line);
	while (file && fgets(text, sizeof(text), file)) {
		if (sscanf(text, "%*d %*d %*s %1023s %1023s %255s - %63s %1023s %1023s", root, place, flags, type, source,
			   super) != 6)
			printf("    unexpected: %s", text);
		else if (!strncmp(place, folder, strlen(folder)) && place[strlen(folder)])
			printf("    %s %s %s %s %s %.2s\n", root, place, flags, type, source, super);
	}
	if (file)
		fclose(file);
}

static void show_file_system(int line, const char *name)
{
	struct statfs s;

	if (statfs(name, &s))
		printf("%d    %s: %s\n", line, name, strerrorname_np(errno));
	else
		printf("%d    %s: type %lx flags %lx\n", line, name, (long)s.f_type, (long)s.f_flags);
}

static void list(int line, const char *name)
{
	DIR *directory = opendir(name);
	struct dirent *entry;
	unsigned int count = 0;

	while (directory && (entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	printf("%d    %s has %u entries\n", line, name, count);
	if (directory)
		closedir(directory);
}

#define MOUNTS() show_mounts(__LINE__)
#define FILE_SYSTEM(name) show_file_system(__LINE__, name)
#define LIST(name) list(__LINE__, name)

static int make(const char *name)
{
	return close(open(name, O_CREAT | O_WRONLY, 0644));
}

static void use_tmpfs(void)
{
	int fd;

	CALL(mount("one", "t", "tmpfs", 0, NULL));
	CALL(make("t/file"));
	FILE_SYSTEM("t");
	MOUNTS();
	CALL(mount("two", "t", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=1m,mode=700"));
	CALL(access("t/file", F_OK));
	FILE_SYSTEM("t");
	MOUNTS();
	fd = open("t/large", O_CREAT | O_WRONLY, 0644);
	CALL(pwrite(fd, buffer, 4096, 0)), CALL(posix_fallocate(fd, 0, 2 << 20));
	CALL(umount2("t", 0));
	close(fd);
	CALL(umount2("t", 0));
	CALL(access("t/file", F_OK));
	CALL(umount2("t", UMOUNT_NOFOLLOW));
	CALL(umount2("t", 0));
	CALL(access("t/file", F_OK));
	CALL(mount("bad", "t", "tmpfs", 0, "size=x"));
	CALL(mount("bad", "t", "tmpfs", 0, "what=1"));
	CALL(mount(NULL, "t", "tmpfs", MS_NOATIME, NULL));
	MOUNTS();
	CALL(rmdir("t")), CALL(rename("t", "u"));
	CALL(umount2("t", MNT_EXPIRE)), CALL(umount2("t", MNT_EXPIRE | MNT_DETACH));
	CALL(umount2("t", MNT_EXPIRE)), CALL(umount2("t", MNT_EXPIRE));
}

static void fail(void)
{
	CALL(mount("x", "absent", "tmpfs", 0, NULL)), CALL(mount("x", "file", "tmpfs", 0, NULL));
	CALL(mount("x", "t", "nonsense", 0, NULL)), CALL(mount("x", "t", NULL, 0, NULL));
	CALL(mount("x", "t", BAD, 0, NULL)), CALL(mount(BAD, "t", "tmpfs", 0, NULL));
	CALL(mount("x", BAD, "tmpfs", 0, NULL)), CALL(mount("x", "t", "tmpfs", 0, BAD));
	CALL(mount(NULL, "t", NULL, MS_BIND, NULL)), CALL(mount("absent", "t", NULL, MS_BIND, NULL));
	CALL(mount("file", "t", NULL, MS_BIND, NULL)), CALL(mount("t", "file", NULL, MS_BIND, NULL));
	CALL(mount("x", "t", NULL, MS_REMOUNT, NULL)), CALL(mount("x", "t", NULL, MS_REMOUNT | MS_BIND, NULL));
	CALL(mount("t", "d", NULL, MS_MOVE, NULL)), CALL(mount(NULL, "d", NULL, MS_MOVE, NULL));
	CALL(mount(NULL, "t", NULL, MS_PRIVATE, NULL)), CALL(mount(NULL, "t", NULL, MS_PRIVATE | MS_SLAVE, NULL));
	CALL(umount2("t", 0)), CALL(umount2("absent", 0)), CALL(umount2("t", 77)), CALL(umount2(BAD, 0));
	CALL(syscall(SYS_pivot_root, "t", "t")), CALL(syscall(SYS_pivot_root, "absent", "t"));
	CALL(syscall(SYS_pivot_root, "t", "absent")), CALL(syscall(SYS_pivot_root, "file", "t"));
	CALL(chroot("absent")), CALL(chroot("file"));
}

/* A file without a directory, or in a mount that was removed, cannot be bound or moved. */
static void bind_what_has_no_place(void)
{
	int ends[2], fd;

	pipe(ends);
	sprintf(buffer, "/proc/self/fd/%d", ends[0]);
	CALL(mount(buffer, "file", NULL, MS_BIND, NULL));
	CALL(mount(buffer, "file", NULL, MS_MOVE, NULL)), CALL(umount2(buffer, 0));
	CALL(mount("x", "t", "tmpfs", 0, NULL));
	fd = open("t", O_RDONLY | O_DIRECTORY);
	CALL(umount2("t", MNT_DETACH));
	sprintf(buffer, "/proc/self/fd/%d", fd);
	CALL(mount(buffer, "d", NULL, MS_BIND, NULL)), CALL(mount(buffer, "d", NULL, MS_MOVE, NULL)), CALL(umount2(buffer, 0));
	close(ends[0]), close(ends[1]), close(fd);
}

static void be_another_user(void)
{
	IN_CHILD {
		CALL(setgid(1000)), CALL(setuid(1000));
		CALL(mount("x", "t", "tmpfs", 0, NULL)), CALL(mount("x", "absent", "tmpfs", 0, NULL));
		CALL(mount("d", "t", NULL, MS_BIND, NULL)), CALL(umount2("t", 0)), CALL(umount2("absent", 0));
		CALL(umount2("t", 77));
		CALL(syscall(SYS_pivot_root, "absent", "t")), CALL(chroot("t"));
	}
}

static void bind(void)
{
	CALL(make("d/inside"));
	CALL(mount("d", "t", "ignored", MS_BIND | MS_RDONLY, "ignored"));
	CALL(access("t/inside", F_OK)), CALL(make("t/new")), CALL(access("d/new", F_OK));
	MOUNTS();
	CALL(mount(NULL, "t", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, NULL));
	CALL(make("t/another")), CALL(make("d/another")), CALL(access("t/another", F_OK));
	CALL(access("t/another", W_OK)), CALL(truncate("t/another", 0)), CALL(chmod("t/another", 0600));
	CALL(unlink("t/another")), CALL(rename("t/another", "t/other")), CALL(mkdir("t/sub", 0755));
	FILE_SYSTEM("t"), FILE_SYSTEM("d");
	MOUNTS();
	CALL(link("d/another", "t/linked")), CALL(rename("d/another", "t/moved"));
	CALL(umount2("t", 0));
	CALL(mount("d/inside", "file", NULL, MS_BIND, NULL));
	CALL(truncate("file", 7)), CALL(unlink("file"));
	MOUNTS();
	CALL(umount2("file", 0));
	CALL(unlink("d/inside")), CALL(unlink("d/new")), CALL(unlink("d/another"));
}

static void bind_trees(void)
{
	mkdir("d/one", 0755), mkdir("d/two", 0755);
	CALL(mount("a", "d/one", "tmpfs", 0, NULL));
	mkdir("d/one/deep", 0755);
	CALL(mount("b", "d/one/deep", "tmpfs", 0, NULL));
	make("d/one/deep/file");
	CALL(mount("d", "t", NULL, MS_BIND, NULL));
	CALL(access("t/one/deep", F_OK));
	CALL(umount2("t", 0));
	CALL(mount("d", "t", NULL, MS_BIND | MS_REC, NULL));
	CALL(access("t/one/deep/file", F_OK));
	MOUNTS();
	CALL(umount2("t", 0)), CALL(umount2("t/one", 0));
	CALL(umount2("t", MNT_DETACH));
	MOUNTS();
	CALL(mount("d/one", "d/two", NULL, MS_MOVE, NULL));
	CALL(access("d/one/deep", F_OK)), CALL(access("d/two/deep/file", F_OK));
	MOUNTS();
	CALL(mount("d/two", "d/two/deep", NULL, MS_MOVE, NULL));
	CALL(mount("d/two", "t", NULL, MS_BIND, NULL));
	CALL(mount("d/two/deep", "t/deep", NULL, MS_BIND | MS_REC, NULL));
	CALL(access("t/deep/file", F_OK));
	CALL(umount2("t", MNT_DETACH)), CALL(umount2("d/two", MNT_DETACH));
	MOUNTS();
	CALL(mount("d", "d", NULL, MS_BIND | MS_REC, NULL));
	MOUNTS();
	CALL(umount2("d", 0)), CALL(umount2("d", 0));
	CALL(rmdir("d/one")), CALL(rmdir("d/two"));
}

/* Unmounting a tmpfs frees all its directories at once. */
static void unmount_a_deep_tree(void)
{
	int depth = 0;

	CALL(mount("deep", "t", "tmpfs", 0, NULL)), CALL(chdir("t"));
	while (depth < 60000 && !mkdir("d", 0755) && !chdir("d"))
		depth++;
	printf("%d directories\n", depth);
	CALL(chdir(folder)), CALL(umount2("t", 0));
}

static void remount(void)
{
	CALL(mount("one", "t", "tmpfs", 0, NULL));
	CALL(make("t/file"));
	CALL(mount("d", "t", NULL, MS_REMOUNT | MS_RDONLY, NULL));
	CALL(make("t/new"));
	FILE_SYSTEM("t");
	MOUNTS();
	CALL(mount("d", "t", NULL, MS_REMOUNT | MS_NOSUID, "size=2m"));
	CALL(make("t/new"));
	FILE_SYSTEM("t");
	MOUNTS();
	CALL(mount("d", "t", NULL, MS_REMOUNT, "size=bad"));
	CALL(umount2("t", 0));
	CALL(mount("p", "t", "proc", 0, NULL));
	CALL(access("t/self/status", F_OK));
	FILE_SYSTEM("t");
	CALL(mount("p", "t", "proc", 0, NULL));
	MOUNTS();
	CALL(umount2("t", 0));
	CALL(mkdir("with space", 0755));
	CALL(mount("a b", "with space", "tmpfs", 0, NULL));
	MOUNTS();
	CALL(umount2("with space", 0)), CALL(rmdir("with space"));
}

static void use_overlay(void)
{
	CALL(mount("top", "t", "tmpfs", 0, NULL));
	mkdir("t/l", 0755), mkdir("t/l2", 0755), mkdir("t/u", 0755), mkdir("t/w", 0755), mkdir("t/m", 0755);
	make("t/l/a"), make("t/l/b"), make("t/l2/c"), mkdir("t/l2/dir", 0755), make("t/l2/dir/x"), mkdir("t/l/dir", 0755);
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/absent,upperdir=t/u,workdir=t/w"));
	CALL(mount("o", "t/m", "overlay", 0, "upperdir=t/u,workdir=t/w"));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l,upperdir=t/u"));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l"));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l,upperdir=t/u,workdir=t/u"));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l,what=t/u"));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l:t/l2,upperdir=t/u,workdir=t/w"));
	FILE_SYSTEM("t/m");
	LIST("t/m"), LIST("t/m/dir");
	MOUNTS();
	CALL(unlink("t/m/a")), CALL(make("t/m/new")), CALL(chmod("t/m/b", 0600)), CALL(unlink("t/m/dir/x"));
	CALL(rename("t/m/dir", "t/m/moved"));
	LIST("t/m"), LIST("t/m/dir"), LIST("t/u"), LIST("t/u/dir"), LIST("t/l");
	CALL(access("t/u/new", F_OK)), CALL(access("t/l/a", F_OK)), CALL(access("t/u/b", F_OK));
	CALL(rmdir("t/m/dir")), CALL(mkdir("t/m/dir", 0755));
	LIST("t/m/dir");
	CALL(umount2("t", 0)), CALL(umount2("t/m", 0));
	LIST("t/m"), LIST("t/u");
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/l:t/l2,upperdir=t/u,workdir=t/w"));
	LIST("t/m"), LIST("t/m/dir"), CALL(access("t/m/a", F_OK));
	CALL(umount2("t/m", 0));
	CALL(mount("o", "t/m", "overlay", 0, "lowerdir=t/u:t/l:t/l2"));
	LIST("t/m"), LIST("t/m/dir"), CALL(access("t/m/a", F_OK));
	CALL(make("t/m/new2")), CALL(unlink("t/m/new"));
	FILE_SYSTEM("t/m");
	MOUNTS();
	CALL(umount2("t/m", 0)), CALL(umount2("t", 0));
}

/* An overlay can be a layer of another one, but not of a third. */
static void stack_overlays(void)
{
	CALL(mount("top", "t", "tmpfs", 0, NULL));
	mkdir("t/a", 0755), mkdir("t/b", 0755), mkdir("t/1", 0755), mkdir("t/2", 0755), mkdir("t/3", 0755);
	mkdir("t/u", 0755), mkdir("t/w", 0755);
	make("t/a/file");
	CALL(mount("o", "t/1", "overlay", 0, "lowerdir=t/a:t/b"));
	CALL(mount("o", "t/2", "overlay", 0, "lowerdir=t/b:t/1"));
	CALL(access("t/2/file", F_OK));
	CALL(mount("o", "t/3", "overlay", 0, "lowerdir=t/2:t/b"));
	CALL(mount("o", "t/3", "overlay", 0, "lowerdir=t/2,upperdir=t/u,workdir=t/w"));
	CALL(umount2("t/2", 0)), CALL(umount2("t/1", 0));
	CALL(mount("o", "t/3", "overlay", 0, "lowerdir=t/a,upperdir=t/u,workdir=t/w"));
	CALL(mount(NULL, "t/3", NULL, MS_REMOUNT | MS_RDONLY, NULL));
	CALL(make("t/3/new"));
	CALL(mount(NULL, "t/3", NULL, MS_REMOUNT, NULL));
	CALL(make("t/3/new"));
	CALL(umount2("t/3", 0));
	CALL(mount("o", "t/3", "overlay", 0, "lowerdir=t/a:t/b"));
	CALL(mount(NULL, "t/3", NULL, MS_REMOUNT, NULL));
	CALL(umount2("t/3", 0)), CALL(umount2("t", 0));
}

/* A file that does not fit into the upper layer stays below, also for the next mount. */
static void fill_upper_layer(void)
{
	static const char layers[] = "lowerdir=d/low,upperdir=t/u,workdir=t/w";
	struct stat s;
	int fd;

	mkdir("d/low", 0755), mkdir("d/all", 0755);
	fd = open("d/low/file", O_CREAT | O_WRONLY, 0644);
	for (int i = 0; i < 64; i++)
		write(fd, memset(buffer, 'x', sizeof(buffer)), sizeof(buffer));
	close(fd);
	CALL(mount("top", "t", "tmpfs", 0, "size=128k"));
	mkdir("t/u", 0755), mkdir("t/w", 0755);
	CALL(mount("o", "d/all", "overlay", 0, layers));
	CALL(open("d/all/file", O_WRONLY)), CALL(chmod("d/all/file", 0600)), CALL(rename("d/all/file", "d/all/moved"));
	CALL(stat("d/all/file", &s)), printf("    %o with %ld bytes\n", s.st_mode, s.st_size);
	LIST("t/u");
	CALL(umount2("d/all", 0)), CALL(mount("o", "d/all", "overlay", 0, layers));
	CALL(stat("d/all/file", &s)), printf("    %o with %ld bytes\n", s.st_mode, s.st_size);
	CALL(mount("top", "t", NULL, MS_REMOUNT, "size=1m"));
	CALL(fd = open("d/all/file", O_WRONLY)), CALL(pwrite(fd, "new", 3, 4096)), close(fd);
	CALL(chmod("d/all/file", 0600));
	CALL(umount2("d/all", 0)), CALL(mount("o", "d/all", "overlay", 0, layers));
	CALL(stat("d/all/file", &s)), printf("    %o with %ld bytes\n", s.st_mode, s.st_size);
	fd = open("d/all/file", O_RDONLY);
	CALL(pread(fd, buffer, 5, 4095)), printf("    %.5s\n", buffer), close(fd);
	LIST("t/u");
	CALL(umount2("d/all", 0)), CALL(umount2("t", 0));
	CALL(unlink("d/low/file")), CALL(rmdir("d/low")), CALL(rmdir("d/all"));
}

static void watch(void)
{
	int fd = inotify_init1(IN_NONBLOCK);
	ssize_t size;

	CALL(mount("one", "t", "tmpfs", 0, NULL));
	make("t/file");
	CALL(inotify_add_watch(fd, "t/file", IN_ALL_EVENTS));
	CALL(umount2("t", 0));
	size = read(fd, buffer, sizeof(buffer));
	for (ssize_t at = 0; at < size; at += sizeof(struct inotify_event))
		printf("    event %x\n", ((struct inotify_event *)(buffer + at))->mask);
	close(fd);
}

static void stay_after_unmount(void)
{
	int fd;

	CALL(mount("one", "t", "tmpfs", 0, NULL));
	mkdir("t/sub", 0755);
	make("t/sub/file");
	fd = open("t/sub/file", O_RDWR);
	CALL(chdir("t/sub"));
	CALL(umount2("../../t", 0)), CALL(umount2("../../t", MNT_DETACH));
	CALL(write(fd, "still", 5)), CALL(access("file", F_OK)), CALL(make("new"));
	CALL(chdir(folder));
	close(fd);
	CALL(access("t/sub", F_OK));
}

static void change_roots(void)
{
	struct stat s;

	CALL(mount("new", "t", "tmpfs", 0, NULL));
	mkdir("t/old", 0755), mkdir("t/proc", 0755), mkdir("t/sub", 0755);
	CALL(syscall(SYS_pivot_root, "t", "d")), CALL(syscall(SYS_pivot_root, "t/sub", "t/old"));
	CALL(syscall(SYS_pivot_root, ".", "."));
	CALL(mount("p", "t/proc", "proc", 0, NULL));
	CALL(chdir("t")), CALL(syscall(SYS_pivot_root, ".", "old"));
	CALL(stat("/sub", &s)), CALL(stat("/old/proc", &s)), CALL(stat("/w", &s));
	CALL(getcwd(buffer, sizeof(buffer)) != NULL);
	printf("    in %s\n", buffer);
	CALL(umount2("/old", 0)), CALL(umount2("/old", MNT_DETACH));
	CALL(stat("/old/proc", &s));
	CALL(rmdir("/old")), CALL(make("/file"));
	CALL(chroot("/sub"));
	CALL(getcwd(buffer, sizeof(buffer)) != NULL);
	printf("    in %s\n", buffer);
	CALL(stat("/proc", &s)), CALL(chdir("/")), CALL(stat("../proc", &s));
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	folder = argv[1];
	mkdir("t", 0755), mkdir("d", 0755), make("file");
	fail();
	be_another_user();
	bind_what_has_no_place();
	use_tmpfs();
	bind();
	bind_trees();
	unmount_a_deep_tree();
	remount();
	use_overlay();
	stack_overlays();
	fill_upper_layer();
	watch();
	stay_after_unmount();
	change_roots();
	return 42;
}
