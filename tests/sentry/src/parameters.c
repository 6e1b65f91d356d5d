// SPDX-License-Identifier: Apache-2.0
/* Changes kernel parameters in /proc/sys, and prints what calls return then. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>

#include "report.h"

static void print(const char *name)
{
	char path[80], line[80] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	file = fopen(path, "r");
	if (!file || !fgets(line, sizeof(line), file))
		strcpy(line, "?\n");
	printf("%s: %s", name, line);
	if (file)
		fclose(file);
}

static void set(const char *name, const char *value)
{
	char path[80];
	long result;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY);
	result = write(fd, value, strlen(value));
	printf("%s to '%s': %s\n", name, value, result == (long)strlen(value) ? "set" : strerrorname_np(errno));
	close(fd);
	print(name);
}

static struct msgbuf_of {
	long type;
	char text[16384];
} message = { .type = 1 };

static void messages(void)
{
	int queue;

	set("kernel/msgmax", "4321");
	set("kernel/msgmnb", "5000\n");
	set("kernel/msgmax", "-1");
	set("kernel/msgmax", "12 13");
	set("kernel/msgmax", "4321");
	set("kernel/msgmax", "many");
	set("kernel/msgmax", "");
	queue = msgget(IPC_PRIVATE, 0600);
	CALL(msgsnd(queue, &message, 4322, IPC_NOWAIT));
	CALL(msgsnd(queue, &message, 4321, IPC_NOWAIT));
	CALL(msgsnd(queue, &message, 800, IPC_NOWAIT)); /* no room */
	set("kernel/msgmni", "2");
	CALL(msgget(IPC_PRIVATE, 0600) >= 0);
	CALL(msgget(IPC_PRIVATE, 0600) >= 0); /* too many */
}

static void semaphores(void)
{
	struct sembuf operations[6];
	int set_of_3;

	for (int i = 0; i < 6; i++)
		operations[i] = (struct sembuf){ 0, 1, IPC_NOWAIT };

	set("kernel/sem", "3 6 5 4");
	CALL(semget(IPC_PRIVATE, 4, 0600)); /* too many in one set */
	set_of_3 = semget(IPC_PRIVATE, 3, 0600);
	CALL(semop(set_of_3, operations, 5));
	CALL(semop(set_of_3, operations, 6)); /* too many at once */
	CALL(semget(IPC_PRIVATE, 3, 0600) >= 0);
	CALL(semget(IPC_PRIVATE, 1, 0600)); /* too many of all */
	CALL(semctl(set_of_3, 0, IPC_RMID));
	CALL(semget(IPC_PRIVATE, 1, 0600) >= 0);
	set("kernel/sem", "9\t10");
}

static void shared_memory(void)
{
	set("kernel/shmmax", "8192");
	CALL(shmget(IPC_PRIVATE, 8193, 0600)); /* too large */
	CALL(shmget(IPC_PRIVATE, 8192, 0600) >= 0);
	set("kernel/shmall", "3");
	CALL(shmget(IPC_PRIVATE, 4096, 0600) >= 0);
	CALL(shmget(IPC_PRIVATE, 4096, 0600)); /* too much of all */
	set("kernel/shmall", "18446744073709551615");
	set("kernel/shmmni", "2");
	CALL(shmget(IPC_PRIVATE, 4096, 0600)); /* too many */
}

static void posix_queues(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 12, .mq_msgsize = 100 };

	set("fs/mqueue/msg_max", "12");
	set("fs/mqueue/msgsize_max", "1000");
	set("fs/mqueue/msg_default", "4");
	set("fs/mqueue/msgsize_default", "200");
	set("fs/mqueue/queues_max", "2");
	IN_CHILD {
		mqd_t queue;

		become(NOBODY);
		queue = mq_open("/default", O_CREAT | O_RDWR, 0600, NULL);
		mq_getattr(queue, &attributes);
		printf("%ld messages of %ld bytes\n", attributes.mq_maxmsg, attributes.mq_msgsize);
		attributes = (struct mq_attr){ .mq_maxmsg = 13, .mq_msgsize = 1000 };
		CALL(mq_open("/second", O_CREAT | O_RDWR, 0600, &attributes));
		attributes = (struct mq_attr){ .mq_maxmsg = 12, .mq_msgsize = 1001 };
		CALL(mq_open("/second", O_CREAT | O_RDWR, 0600, &attributes));
		attributes.mq_msgsize = 1000;
		CALL(mq_open("/second", O_CREAT | O_RDWR, 0600, &attributes) >= 0);
		CALL(mq_open("/third", O_CREAT | O_RDWR, 0600, &attributes)); /* too many */
	}
}

static int bound(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(fd, (struct sockaddr *)&address, size))
		return -1;
	getsockname(fd, (struct sockaddr *)&address, &size);
	return ntohs(address.sin_port);
}

static int option(int level, int name)
{
	socklen_t size = sizeof(int);
	int fd = socket(AF_INET, SOCK_STREAM, 0), value = -1;

	getsockopt(fd, level, name, &value, &size);
	close(fd);
	return value;
}

static void network(void)
{
	int fd, usual = -1, ports = 0;

	set("net/ipv4/ip_default_ttl", "77");
	set("net/ipv4/ip_default_ttl", "0");
	set("net/ipv4/ip_default_ttl", "256");
	CALL(option(IPPROTO_IP, IP_TTL));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	CALL(setsockopt(fd, IPPROTO_IP, IP_TTL, &(int){ 5 }, sizeof(int)));
	CALL(setsockopt(fd, IPPROTO_IP, IP_TTL, &usual, sizeof(usual)));
	CALL(getsockopt(fd, IPPROTO_IP, IP_TTL, &usual, &(socklen_t){ sizeof(usual) }));
	printf("again %d\n", usual);
	set("net/ipv4/tcp_keepalive_time", "100");
	set("net/ipv4/tcp_keepalive_intvl", "10");
	set("net/ipv4/tcp_keepalive_probes", "3");
	CALL(option(IPPROTO_TCP, TCP_KEEPIDLE));
	CALL(option(IPPROTO_TCP, TCP_KEEPINTVL));
	CALL(option(IPPROTO_TCP, TCP_KEEPCNT));
	set("net/ipv4/ip_unprivileged_port_start", "90");
	IN_CHILD {
		become(NOBODY);
		CALL(bound(89));
		CALL(bound(90));
		set("net/ipv4/ip_unprivileged_port_start", "1");
	}
	set("net/ipv4/ip_local_port_range", "40000 40001");
	set("net/ipv4/ip_local_port_range", "50 40");
	set("net/ipv4/ip_local_port_range", "40002"); /* above the last one */
	for (int i = 0; i < 2; i++)
		ports += bound(0);
	printf("ports: %d\n", ports);
	CALL(bound(0)); /* none is left */
	set("net/ipv4/ping_group_range", "5 7");
	set("net/ipv4/ip_forward", "1");
	set("net/core/somaxconn", "7");
	set("net/core/not_there", "7");
}

static void names(void)
{
	char name[65];

	set("kernel/hostname", "a-name\n");
	set("kernel/domainname", "a.domain");
	CALL(gethostname(name, sizeof(name)));
	printf("%s\n", name);
	CALL(getdomainname(name, sizeof(name)));
	printf("%s\n", name);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	names();
	messages();
	semaphores();
	shared_memory();
	posix_queues();
	network();
	return 42;
}
