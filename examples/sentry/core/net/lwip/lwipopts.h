/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How lwIP is built: its raw interface without threads, for IPv4 and IPv6.  Its memory is the core's (net/stack.c), and
 * the core calls its timers.
 */
#ifndef SENTRY_LWIPOPTS_H
#define SENTRY_LWIPOPTS_H

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_TIMERS 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_STATS 0

/* Memory: all of it by net_malloc(), which has a limit. */
#define MEM_CUSTOM_ALLOCATOR 1
#define MEM_CUSTOM_MALLOC(size) net_malloc(size)
#define MEM_CUSTOM_CALLOC(count, size) net_calloc(count, size)
#define MEM_CUSTOM_FREE(memory) net_free(memory)
#define MEMP_MEM_MALLOC 1
#define MEM_ALIGNMENT 16
void *net_malloc(unsigned long size);
void *net_calloc(unsigned long count, unsigned long size);
void net_free(void *memory);

#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_ICMP 1
#define LWIP_ICMP6 1
#define LWIP_RAW 0
#define LWIP_UDP 1
#define LWIP_UDPLITE 1
#define LWIP_TCP 1
#define LWIP_DNS 0
#define LWIP_IGMP 0
#define LWIP_IPV6_MLD 0
#define LWIP_MULTICAST_TX_OPTIONS 1
#define LWIP_DHCP 1
#define LWIP_ACD 0
#define LWIP_DHCP_DOES_ACD_CHECK 0
#define LWIP_IPV6_AUTOCONFIG 1
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0
#define LWIP_NETIF_HOSTNAME 0
#define LWIP_SINGLE_NETIF 0

#define LWIP_HAVE_LOOPIF 1
#define LWIP_NETIF_LOOPBACK 1
#define LWIP_LOOPBACK_MAX_PBUFS 0
#define LWIP_NETIF_TX_SINGLE_PBUF 0
#define LWIP_CHECKSUM_CTRL_PER_NETIF 1

/* Large segments of up to 8 pages: between programs of the sandbox, a segment of any size costs the same. */
#define TCP_MSS (32768 - 256)
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 4
#define TCP_WND (8 * TCP_MSS)
#define TCP_SND_BUF (8 * TCP_MSS)
#define TCP_SND_QUEUELEN 8192
#define TCP_SNDLOWAT (TCP_MSS)
#define TCP_OVERSIZE 512
#define TCP_QUEUE_OOSEQ 1
#define TCP_OOSEQ_MAX_BYTES TCP_WND
#define TCP_OOSEQ_MAX_PBUFS 256
#define LWIP_TCP_SACK_OUT 1
#define LWIP_TCP_KEEPALIVE 1
#define LWIP_TCP_RTO_TIME 1000
#define TCP_MSL 30000
#define TCP_LISTEN_BACKLOG 0
#define TCP_CALCULATE_EFF_SEND_MSS 1
#define LWIP_TCP_PCB_NUM_EXT_ARGS 1
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1
#define SO_REUSE 1
#define TCP_TMR_INTERVAL 250

#define IP_REASS_MAX_PBUFS 128
#define MEMP_NUM_REASSDATA 16
#define IPV6_FRAG_COPYHEADER 1
#define PBUF_POOL_BUFSIZE 1536
#define ARP_QUEUEING 1
#define ARP_QUEUE_LEN 16
#define IP_SOF_BROADCAST 0
#define IP_SOF_BROADCAST_RECV 0

#define LWIP_HOOK_FILENAME "hooks.h"
#define LWIP_HOOK_IP4_INPUT(packet, interface) net_ip4_input(packet, interface)
#define LWIP_HOOK_IP6_INPUT(packet, interface) net_ip6_input(packet, interface)
#define LWIP_HOOK_TCP_ISN(local, local_port, remote, remote_port) net_random()

#endif
