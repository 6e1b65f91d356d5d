// SPDX-License-Identifier: Apache-2.0
/* lwIP in the core: its memory, its time, its interfaces. */
#include "stack.h"

#include "lwip/dhcp.h"
#include "lwip/ethip6.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/ip4_frag.h"
#include "lwip/ip6_frag.h"
#include "lwip/nd6.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "lwip/prot/udp.h"
#include "netif/ethernet.h"

#include "lwip/hooks.h"
#include "../virtio/virtio.h"
#include "frames.h"

#define TICK 250000000ull
#define PATIENCE 1000000000ull /* for an address at the start */
#define MOMENT 50000000ull
enum { TICKS_A_SECOND = 4, MINUTE = 240, HEADER = 16, LEAST_LIMIT = 4 << 20 };
/* Blocks for a segment of Ethernet, which lwIP allocates for each, are kept: so many of one size. */
enum { SEGMENT_LEAST = 1344, SEGMENT_MOST = 2016, KEPT = 160 };

static struct {
	struct netif *loopback, outside;
	u64 used, limit; /* bytes */
	u64 ticks;
	struct timer timer;
	bool running;
	u32 kept;
	u64 *first; /* of the kept blocks, each of which begins with the next one */
} net;

/* -- memory: each block begins with its size -- */

static bool is_segment(u64 size)
{
	return size > SEGMENT_LEAST && size <= SEGMENT_MOST;
}

static u64 *block_new(u64 size)
{
	u64 *block = net.first;

	if (!is_segment(size) || !block)
		return buffer_alloc(is_segment(size) ? SEGMENT_MOST : size);
	net.first = (u64 *)block[0];
	net.kept--;
	return block;
}

void *net_malloc(unsigned long size)
{
	u64 *block = size + HEADER <= net.limit - net.used ? block_new(size + HEADER) : NULL;

	if (!block)
		return NULL;
	net.used += block[0] = size + HEADER;
	return (u8 *)block + HEADER;
}

void *net_calloc(unsigned long count, unsigned long size)
{
	void *memory = net_malloc(count * size);

	if (memory)
		bytes_zero(memory, count * size);
	return memory;
}

void net_free(void *memory)
{
	u64 *block = (u64 *)((u8 *)memory - HEADER);

	if (!memory)
		return;
	net.used -= block[0];
	if (!is_segment(block[0]) || net.kept == KEPT) {
		kfree(block);
		return;
	}
	block[0] = (u64)net.first;
	net.first = block;
	net.kept++;
}

u64 net_block_size(const void *memory)
{
	return *(const u64 *)((const u8 *)memory - HEADER) - HEADER;
}

bool net_charge(u64 bytes)
{
	if (bytes > net.limit - net.used)
		return false;
	net.used += bytes;
	return true;
}

void net_discharge(u64 bytes)
{
	net.used -= bytes;
}

bool net_is_low(void)
{
	return net.used > net.limit / 8 * 7;
}

u32 net_random(void)
{
	u32 value;

	core.ops->random(&value, sizeof(value));
	return value;
}

_Noreturn void net_broken(const char *why)
{
	core.ops->fatal(why);
	__builtin_unreachable();
}

/* -- addresses -- */

struct netif *net_loopback(void)
{
	return net.loopback;
}

struct netif *net_outside(void)
{
	return netif_default;
}

static bool has_address(const struct netif *interface, const ip_addr_t *address)
{
	if (IP_IS_V4(address))
		return ip4_addr_eq(ip_2_ip4(address), netif_ip4_addr(interface));
	return netif_get_ip6_addr_match((struct netif *)interface, ip_2_ip6(address)) >= 0;
}

bool net_is_local(const ip_addr_t *address)
{
	if (ip_addr_isloopback(address))
		return true;
	return net_outside() && has_address(net_outside(), address);
}

int net_source(const ip_addr_t *to, ip_addr_t *from)
{
	const ip_addr_t *chosen;
	struct netif *way;

	if (net_is_local(to)) {
		ip_addr_copy(*from, *to);
		if (IP_IS_V4(to) && ip_addr_isloopback(to))
			IP_ADDR4(from, 127, 0, 0, 1);
		return 0;
	}
	way = ip_route(IP46_ADDR_ANY(IP_GET_TYPE(to)), to);
	if (!way || way == net.loopback)
		return -ENETUNREACH;
	chosen = ip_netif_get_local_ip(way, to);
	if (!chosen || ip_addr_isany(chosen))
		return -ENETUNREACH;
	ip_addr_copy(*from, *chosen);
	return 0;
}

/* -- what comes in -- */

enum { QUOTED = 128, UNREACHABLE = 3, UNREACHABLE_6 = 1, NO_PORT = 3, NO_PORT_6 = 4 };

/* The packet reports a datagram of ours as refused; the quoted UDP header is at `at`. */
static void refused(const u8 *packet, u32 size, u32 at, const ip_addr_t *from, const ip_addr_t *to)
{
	if (at + UDP_HLEN <= size)
		inet_refused(from, (u16)(packet[at] << 8 | packet[at + 1]), to, (u16)(packet[at + 2] << 8 | packet[at + 3]));
}

static void see_icmp(const u8 *packet, u32 size)
{
	u32 at = (packet[0] & 15) * 4, inner = at + 8;
	ip_addr_t from = IPADDR4_INIT(0), to = IPADDR4_INIT(0);

	if (packet[9] != IP_PROTO_ICMP || packet[6] & 0x3f || packet[7] || inner + IP_HLEN > size)
		return;
	if (packet[at] != UNREACHABLE || packet[at + 1] != NO_PORT || packet[inner + 9] != IP_PROTO_UDP)
		return;
	bytes_copy(&ip_2_ip4(&from)->addr, packet + inner + 12, 4);
	bytes_copy(&ip_2_ip4(&to)->addr, packet + inner + 16, 4);
	refused(packet, size, inner + (packet[inner] & 15) * 4, &from, &to);
}

static void see_icmp6(const u8 *packet, u32 size)
{
	enum { INNER = IP6_HLEN + 8, NEXT = 6, SOURCE = 8, DESTINATION = 24 };
	ip_addr_t from = IPADDR6_INIT(0, 0, 0, 0), to = IPADDR6_INIT(0, 0, 0, 0);

	if (packet[NEXT] != IP6_NEXTH_ICMP6 || INNER + IP6_HLEN > size)
		return;
	if (packet[IP6_HLEN] != UNREACHABLE_6 || packet[IP6_HLEN + 1] != NO_PORT_6 || packet[INNER + NEXT] != IP6_NEXTH_UDP)
		return;
	bytes_copy(ip_2_ip6(&from)->addr, packet + INNER + SOURCE, 16);
	bytes_copy(ip_2_ip6(&to)->addr, packet + INNER + DESTINATION, 16);
	refused(packet, size, INNER + IP6_HLEN, &from, &to);
}

/* Drop a packet from outside that claims an address of the loopback. */
static int eat(struct pbuf *packet)
{
	pbuf_free(packet);
	return 1;
}

static bool is_loopback6(const u8 *address)
{
	static const u8 loopback[16] = { [15] = 1 };

	return bytes_equal(address, loopback, 16);
}

int net_ip4_input(struct pbuf *packet, struct netif *interface)
{
	u8 start[QUOTED];
	u32 size = pbuf_copy_partial(packet, start, sizeof(start), 0);

	if (size < IP_HLEN)
		return 0;
	if (interface == net.loopback && start[16] == IP_LOOPBACKNET) /* all of 127.0.0.0/8 is this sandbox */
		bytes_copy(&ip_2_ip4(&interface->ip_addr)->addr, start + 16, 4);
	if (interface != net.loopback && (start[12] == IP_LOOPBACKNET || start[16] == IP_LOOPBACKNET))
		return eat(packet);
	see_icmp(start, size);
	return 0;
}

int net_ip6_input(struct pbuf *packet, struct netif *interface)
{
	u8 start[QUOTED];
	u32 size = pbuf_copy_partial(packet, start, sizeof(start), 0);

	if (size < IP6_HLEN)
		return 0;
	if (interface != net.loopback && (is_loopback6(start + 8) || is_loopback6(start + 24)))
		return eat(packet);
	see_icmp6(start, size);
	return 0;
}

/* -- time -- */

static void arm(void)
{
	bool needed = tcp_active_pcbs || tcp_tw_pcbs || net_outside();

	if (needed && !net.timer.active)
		timer_start(&net.timer, monotonic_now() + TICK);
	else if (!needed)
		timer_stop(&net.timer);
}

void net_run(void)
{
	if (net.running)
		return;
	net.running = true;
	if (net_outside()) /* a packet to an address of the sandbox has no sum where the device adds it */
		net_outside()->chksum_flags &= (u16)~NET_CHECKS;
	netif_poll_all();
	IP_ADDR4(&net.loopback->ip_addr, 127, 0, 0, 1);
	net.running = false;
	frames_flush();
	arm();
}

static void tick(struct timer *timer)
{
	(void)timer;
	net.ticks++;
	tcp_tmr();
	if (net.ticks % TICKS_A_SECOND == 0) {
		ip_reass_tmr();
		ip6_reass_tmr();
		if (net_outside()) {
			etharp_tmr();
			nd6_tmr();
		}
	}
	if (net_outside() && net.ticks % (TICKS_A_SECOND / 2) == 0)
		dhcp_fine_tmr();
	if (net_outside() && net.ticks % MINUTE == 0)
		dhcp_coarse_tmr();
	net_run();
}

/* -- the outside -- */

static err_t init_outside(struct netif *interface)
{
	const u8 *mac;

	if (!net_device(&mac, &interface->mtu))
		return ERR_IF;
	interface->name[0] = 'e';
	interface->name[1] = 't';
	interface->hwaddr_len = sizeof(interface->hwaddr);
	bytes_copy(interface->hwaddr, mac, sizeof(interface->hwaddr));
	interface->mtu6 = interface->mtu;
	interface->output = etharp_output;
	interface->output_ip6 = ethip6_output;
	interface->linkoutput = frame_put;
	if (net_device_offloads())
		interface->chksum_flags &= (u16)~NETIF_CHECKSUM_GEN_TCP;
	interface->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
	return ERR_OK;
}

static void attach_outside(void)
{
	if (!netif_add(&net.outside, NULL, NULL, NULL, NULL, init_outside, ethernet_input))
		return;
	netif_set_default(&net.outside);
	netif_set_up(&net.outside);
	netif_create_ip6_linklocal_address(&net.outside, 1);
	netif_set_ip6_autoconfig_enabled(&net.outside, 1);
	if (!core.config->control) /* otherwise the host configures it */
		dhcp_start(&net.outside);
	nd6_tmr(); /* solicits routers */
}

void net_settle(void)
{
	u64 end = monotonic_now() + PATIENCE;

	while (!core.config->control && net_outside() && ip4_addr_isany(netif_ip4_addr(&net.outside)) && monotonic_now() < end) {
		virtio_poll();
		core.ops->wait(monotonic_now() + MOMENT);
	}
}

void net_init(void)
{
	u64 part = core.ram.available * PAGE / 4;

	bytes_zero(&net, sizeof(net));
	net.limit = part > LEAST_LIMIT ? part : LEAST_LIMIT;
	net.timer.expire = tick;
	frames_init();
	tcp_active_pcbs = tcp_tw_pcbs = tcp_bound_pcbs = NULL;
	tcp_listen_pcbs.pcbs = NULL;
	udp_pcbs = NULL;
	netif_list = netif_default = NULL;
	lwip_init();
	net.loopback = netif_list;
	net.loopback->mtu = 0xffff;
	netif_set_flags(net.loopback, NETIF_FLAG_UP);
	NETIF_SET_CHECKSUM_CTRL(net.loopback, NETIF_CHECKSUM_DISABLE_ALL);
	attach_outside();
	net_run();
}
