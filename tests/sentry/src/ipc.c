/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory, semaphores and message queues of System V. Works in a new folder; removes what it makes. */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include "report.h"

enum { KEY = 0x5e47f00d, GONE = 0x7fff1234 };

/* -- shared memory -- */

static void show_segment(int line, int id)
{
	struct shmid_ds state;

	if (shmctl(id, IPC_STAT, &state)) {
		printf("%d   %s\n", line, strerrorname_np(errno));
		return;
	}
	printf("%d   key %x mode %o size %zu users %lu owner %u %u creator %u by %d last %d, %d %d %d\n", line, state.shm_perm.__key,
	       state.shm_perm.mode, state.shm_segsz, state.shm_nattch, state.shm_perm.uid, state.shm_perm.gid, state.shm_perm.cuid,
	       state.shm_cpid == getpid(), state.shm_lpid == getpid(), !!state.shm_atime, !!state.shm_dtime, !!state.shm_ctime);
}

#define SEGMENT(id) show_segment(__LINE__, id)
#define ATTACH(at, id, address, flags) \
	(at = shmat(id, address, flags), show(__LINE__, "shmat " #id " " #address " " #flags, at == (void *)-1 ? -1 : 0))

static void shared_memory(void)
{
	struct shmid_ds state = { .shm_perm.mode = 0604, .shm_perm.uid = 7, .shm_perm.gid = 8 };
	char *at, *other;
	int id;

	TRY(shmget, KEY, 10000, 0600);
	TRY(shmget, KEY, 0, IPC_CREAT | 0600);
	TRY(shmget, KEY, -1ul, IPC_CREAT | 0600);
	CALL(id = shmget(KEY, 10000, IPC_CREAT | IPC_EXCL | 0640) < 0);
	id = shmget(KEY, 0, 0);
	TRY(shmget, KEY, 10000, IPC_CREAT | IPC_EXCL | 0640);
	TRY(shmget, KEY, 10001, 0);
	CALL(shmget(KEY, 10000, 0600) == id);
	SEGMENT(id);
	TRY(shmat, -1, NULL, 0);
	TRY(shmat, GONE, NULL, 0);
	TRY(shmat, id, (char *)1, 0);
	TRY(shmat, id, NULL, SHM_REMAP);
	ATTACH(at, id, NULL, 0);
	SEGMENT(id);
	strcpy(at + 5000, "here");
	ATTACH(other, id, NULL, SHM_RDONLY);
	puts(other + 5000);
	SEGMENT(id);
	CALL(mprotect(other, 4096, PROT_READ | PROT_WRITE));
	TRY(shmat, id, at, 0);
	CALL(shmat(id, at, SHM_REMAP) == at);
	CALL(munmap(at + 4096, 4096));
	SEGMENT(id);
	CALL(shmdt(at + 4096));
	CALL(shmdt(at + 1));
	CALL(shmdt(at));
	SEGMENT(id);
	CALL(shmdt(at));
	CALL(shmdt(&id));
	CALL(shmat(id, at + 100, SHM_RND) == at);
	IN_CHILD {
		SEGMENT(id);
		strcpy(at, "of the child");
	}
	puts(at);
	IN_CHILD {
		become(NOBODY);
		TRY(shmat, id, NULL, 0);
		TRY(shmat, id, NULL, SHM_RDONLY);
		CALL(shmget(KEY, 0, 0) >= 0);
		CALL(shmget(KEY, 0, 0400) >= 0);
		TRY(shmctl, id, IPC_STAT, &state);
		TRY(shmctl, id, IPC_SET, &state);
		TRY(shmctl, id, IPC_RMID, NULL);
		TRY(shmctl, id, SHM_LOCK, NULL);
	}
	TRY(shmctl, id, IPC_SET, BAD);
	TRY(shmctl, id, IPC_STAT, BAD);
	TRY(shmctl, id, 99, NULL);
	TRY(shmctl, -1, IPC_STAT, &state);
	TRY(shmctl, GONE, IPC_STAT, &state);
	TRY(shmctl, GONE, IPC_RMID, NULL);
	TRY(shmctl, GONE, IPC_SET, &state);
	TRY(shmctl, GONE, SHM_LOCK, NULL);
	state = (struct shmid_ds){ .shm_perm.mode = 0604, .shm_perm.uid = 7, .shm_perm.gid = 8 };
	TRY(shmctl, id, IPC_SET, &state);
	SEGMENT(id);
	TRY(shmctl, id, SHM_LOCK, NULL);
	SEGMENT(id);
	TRY(shmctl, id, SHM_UNLOCK, NULL);
	TRY(shmctl, id, IPC_RMID, NULL);
	SEGMENT(id); /* it exists until the last process detaches it */
	TRY(shmget, KEY, 0, 0);
	CALL(shmdt(other));
	CALL(shmdt(at));
	SEGMENT(id);
	id = shmget(IPC_PRIVATE, 4096, 0600);
	ATTACH(at, id, NULL, 0);
	TRY(shmctl, id, IPC_RMID, NULL);
	IN_CHILD {
		SEGMENT(id);
	}
	CALL(munmap(at, 4096));
	SEGMENT(id);
}

/* -- semaphores -- */

static void show_set(int line, int id)
{
	struct semid_ds state;
	unsigned short values[3];

	if (semctl(id, 0, IPC_STAT, &state) || semctl(id, 0, GETALL, values)) {
		printf("%d   %s\n", line, strerrorname_np(errno));
		return;
	}
	printf("%d   key %x mode %o count %lu owner %u, %d %d: %d %d %d\n", line, state.sem_perm.__key, state.sem_perm.mode,
	       state.sem_nsems, state.sem_perm.uid, !!state.sem_otime, !!state.sem_ctime, values[0], values[1], values[2]);
}

#define SET(id) show_set(__LINE__, id)

static long operate(int id, unsigned count, int first, int change, int flags, int second, int change2, int flags2)
{
	struct sembuf operations[] = {
		{ (unsigned short)first, (short)change, (short)flags }, { (unsigned short)second, (short)change2, (short)flags2 },
	};

	return syscall(SYS_semop, id, operations, count);
}

static void interrupted(int signal)
{
	(void)signal;
}

/* Wait until that many processes sleep. */
static void await(int id, int number, int command, int count)
{
	while (semctl(id, number, command) != count)
		usleep(1000);
}

static void semaphore_errors(int id)
{
	struct sembuf one = { 0, 1, 0 };
	struct semid_ds state = { .sem_perm.mode = 0604 };
	struct timespec bad = { 0, -1 }, none = { 0, 0 };
	unsigned short large[] = { 1, 40000, 1 };

	TRY(semop, -1, &one, 1);
	TRY(semop, GONE, &one, 1);
	TRY(semop, id, &one, 0);
	TRY(semop, id, &one, 501);
	TRY(semop, id, BAD, 1);
	CALL(operate(id, 1, 3, 1, 0, 0, 0, 0));
	CALL(operate(id, 1, 0, -1, IPC_NOWAIT, 0, 0, 0));
	CALL(operate(id, 2, 0, 1, 0, 0, -2, IPC_NOWAIT));
	CALL(operate(id, 2, 0, 32767, 0, 0, 1, IPC_NOWAIT));
	CALL(operate(id, 1, 0, 32767, SEM_UNDO, 0, 0, 0));
	CALL(operate(id, 1, 0, -32767, SEM_UNDO, 0, 0, 0));
	one = (struct sembuf){ 0, -1, 0 };
	TRY(semtimedop, id, &one, 1, BAD);
	TRY(semtimedop, id, &one, 1, &bad);
	TRY(semtimedop, id, &one, 1, &none);
	TRY(semctl, -1, 0, GETVAL, 0);
	TRY(semctl, GONE, 0, GETVAL, 0);
	TRY(semctl, id, 3, GETVAL, 0);
	TRY(semctl, id, -1, GETPID, 0);
	TRY(semctl, id, 3, SETVAL, 0);
	TRY(semctl, id, 0, SETVAL, -1);
	TRY(semctl, id, 0, SETVAL, 32768);
	TRY(semctl, GONE, 0, SETVAL, 32768);
	TRY(semctl, GONE, 0, SETVAL, 1);
	TRY(semctl, id, 0, GETALL, BAD);
	TRY(semctl, id, 0, SETALL, BAD);
	TRY(semctl, id, 0, SETALL, large);
	TRY(semctl, id, 0, IPC_STAT, BAD);
	TRY(semctl, id, 0, IPC_SET, BAD);
	TRY(semctl, id, 0, 99, 0);
	TRY(semctl, GONE, 0, IPC_RMID, 0);
	TRY(semctl, GONE, 0, IPC_STAT, &state);
	IN_CHILD {
		become(NOBODY);
		one = (struct sembuf){ 0, 1, 0 };
		TRY(semop, id, &one, 1);
		one.sem_op = 0;
		TRY(semop, id, &one, 1);
		TRY(semctl, id, 0, GETVAL, 0);
		TRY(semctl, id, 0, SETVAL, 0);
		TRY(semctl, id, 0, SETALL, large);
		TRY(semctl, id, 0, IPC_STAT, &state);
		TRY(semctl, id, 0, IPC_SET, &state);
		TRY(semctl, id, 0, IPC_RMID, 0);
		CALL(semget(KEY, 0, 0) >= 0);
		CALL(semget(KEY, 0, 0600) >= 0);
	}
}

/* Start a child that makes an operation, and wait until it sleeps. */
static pid_t sleeper(int id, int number, int change, int flags)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		struct sigaction action = { .sa_handler = interrupted, .sa_flags = SA_RESTART };

		sigaction(SIGUSR1, &action, NULL);
		long result = operate(id, 1, number, change, flags, 0, 0, 0);
		printf("  the child's operation: %s\n", result ? strerrorname_np(errno) : "0");
		fflush(stdout);
		_exit(0);
	}
	await(id, number, change ? GETNCNT : GETZCNT, 1);
	return child;
}

static void semaphores(void)
{
	unsigned short values[] = { 4, 5, 6 };
	int id;

	TRY(semget, KEY, 3, 0600);
	TRY(semget, KEY, 0, IPC_CREAT | 0600);
	TRY(semget, KEY, -1, IPC_CREAT | 0600);
	TRY(semget, KEY, 32001, IPC_CREAT | 0600);
	id = semget(KEY, 3, IPC_CREAT | IPC_EXCL | 0644);
	TRY(semget, KEY, 3, IPC_CREAT | IPC_EXCL | 0644);
	TRY(semget, KEY, 4, 0);
	CALL(semget(KEY, 3, 0) == id);
	SET(id);
	semaphore_errors(id);
	SET(id);
	TRY(semctl, id, 0, SETALL, values);
	SET(id);
	TRY(semctl, id, 1, SETVAL, 9);
	TRY(semctl, id, 1, GETVAL, 0);
	CALL(semctl(id, 1, GETPID) == getpid());
	CALL(operate(id, 2, 0, -4, 0, 1, -9, 0));
	SET(id);
	sleeper(id, 0, -2, 0);
	operate(id, 1, 0, 1, 0, 0, 0, 0);
	operate(id, 1, 0, 1, 0, 0, 0, 0);
	wait(NULL);
	SET(id);
	sleeper(id, 2, 0, 0);
	TRY(semctl, id, 2, SETVAL, 0);
	wait(NULL);
	kill(sleeper(id, 0, -2, 0), SIGUSR1);
	wait(NULL);
	/* The kernel undoes the changes of a process at its end. */
	IN_CHILD {
		CALL(operate(id, 2, 0, 5, SEM_UNDO, 1, 3, 0));
		CALL(operate(id, 1, 0, -1, SEM_UNDO, 0, 0, 0));
		SET(id);
	}
	SET(id);
	IN_CHILD {
		CALL(operate(id, 1, 0, 5, SEM_UNDO, 0, 0, 0));
		TRY(semctl, id, 0, SETVAL, 2); /* which cancels what would be undone */
	}
	SET(id);
	sleeper(id, 0, -20, 0);
	TRY(semctl, id, 0, IPC_RMID, 0);
	wait(NULL);
	SET(id);
}

/* -- messages -- */

struct text {
	long type;
	char text[64];
};

static void show_queue(int line, int id)
{
	struct msqid_ds state;

	if (msgctl(id, IPC_STAT, &state)) {
		printf("%d   %s\n", line, strerrorname_np(errno));
		return;
	}
	printf("%d   key %x mode %o owner %u bytes %lu count %lu room %lu by %d %d, %d %d %d\n", line, state.msg_perm.__key,
	       state.msg_perm.mode, state.msg_perm.uid, state.__msg_cbytes, state.msg_qnum, state.msg_qbytes,
	       state.msg_lspid == getpid(), state.msg_lrpid == getpid(), !!state.msg_stime, !!state.msg_rtime, !!state.msg_ctime);
}

static void send(int line, int id, long type, const char *text, int flags)
{
	struct text message = { .type = type };

	strcpy(message.text, text);
	show(line, "msgsnd", syscall(SYS_msgsnd, id, &message, strlen(text) + 1, flags));
}

static void take(int line, int id, size_t size, long type, int flags)
{
	struct text message = { .type = 0 };

	if (show(line, "msgrcv", syscall(SYS_msgrcv, id, &message, size, type, flags)) >= 0)
		printf("   %ld %.*s\n", message.type, (int)size, message.text);
}

#define QUEUE(id) show_queue(__LINE__, id)
#define SEND(...) send(__LINE__, ##__VA_ARGS__)
#define TAKE(...) take(__LINE__, ##__VA_ARGS__)

static void message_errors(int id)
{
	struct text message = { .type = 1 };
	struct msqid_ds state;

	TRY(msgsnd, id, BAD, 1, 0);
	TRY(msgsnd, -1, &message, 1, 0);
	TRY(msgsnd, GONE, &message, 1, 0);
	TRY(msgsnd, id, &message, 8193, 0);
	TRY(msgsnd, id, &message, -1ul, 0);
	SEND(id, 0, "x", 0);
	SEND(id, -1, "x", 0);
	TRY(msgrcv, -1, &message, 1, 0, 0);
	TRY(msgrcv, GONE, &message, 1, 0, 0);
	TRY(msgrcv, id, &message, -1ul, 0, 0);
	TRY(msgrcv, id, &message, 1, 0, IPC_NOWAIT);
	TRY(msgrcv, id, &message, 1, 0, MSG_COPY);
	TRY(msgrcv, id, &message, 1, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT);
	TRY(msgctl, -1, IPC_STAT, &state);
	TRY(msgctl, GONE, IPC_STAT, &state);
	TRY(msgctl, GONE, IPC_RMID, &state);
	TRY(msgctl, id, IPC_STAT, BAD);
	TRY(msgctl, id, IPC_SET, BAD);
	TRY(msgctl, id, 99, &state);
	IN_CHILD {
		become(NOBODY);
		TRY(msgsnd, id, &message, 1, 0);
		TRY(msgrcv, id, &message, 1, 0, IPC_NOWAIT);
		TRY(msgctl, id, IPC_STAT, &state);
		TRY(msgctl, id, IPC_SET, &state);
		TRY(msgctl, id, IPC_RMID, NULL);
		CALL(msgget(KEY, 0) >= 0);
		CALL(msgget(KEY, 0666) >= 0);
	}
}

static void messages(void)
{
	struct msqid_ds state = { .msg_perm.mode = 0600, .msg_qbytes = 100 };
	int id;

	TRY(msgget, KEY, 0);
	id = msgget(KEY, IPC_CREAT | IPC_EXCL | 0622);
	TRY(msgget, KEY, IPC_CREAT | IPC_EXCL);
	CALL(msgget(KEY, 0) == id);
	QUEUE(id);
	message_errors(id);
	TAKE(id, 64, 0, 0);
	SEND(id, 3, "three", 0);
	SEND(id, 1, "one", 0);
	SEND(id, 2, "two", 0);
	SEND(id, 1, "one again", 0);
	SEND(id, 5, "", 0);
	QUEUE(id);
	TAKE(id, 64, 2, 0);
	TAKE(id, 64, 2, IPC_NOWAIT);
	TAKE(id, 64, -2, 0);
	TAKE(id, 64, 3, MSG_EXCEPT);
	TAKE(id, 3, 0, 0);
	TAKE(id, 3, 0, MSG_NOERROR);
	TAKE(id, 64, (long)(1ul << 63), 0);
	QUEUE(id);
	TRY(msgctl, id, IPC_SET, &state);
	SEND(id, 1, "sixty bytes, or nearly as many, which are not yet too long", 0);
	SEND(id, 1, "sixty bytes, or nearly as many, which are not yet too long", IPC_NOWAIT);
	fflush(stdout);
	if (!fork()) {
		SEND(id, 2, "a message that has to wait until there is room for it", 0);
		fflush(stdout);
		_exit(0);
	}
	TAKE(id, 64, 1, 0);
	TAKE(id, 64, 2, 0);
	wait(NULL);
	fflush(stdout);
	if (!fork()) {
		TAKE(id, 64, 0, 0);
		fflush(stdout);
		_exit(0);
	}
	SEND(id, 9, "for the child", 0);
	wait(NULL);
	SEND(id, 9, "left", 0);
	TRY(msgctl, id, IPC_RMID, NULL);
	QUEUE(id);
	id = msgget(IPC_PRIVATE, 0600);
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		signal(SIGUSR1, interrupted);
		TAKE(id, 64, 0, 0);
		fflush(stdout);
		_exit(0);
	}
	wait_until_asleep(child);
	TRY(msgctl, id, IPC_RMID, NULL);
	wait(NULL);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	shared_memory();
	semaphores();
	messages();
	return 42;
}
