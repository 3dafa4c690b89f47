/* A network namespace inside a user namespace with the sandbox's mapping, and the one link that leads out of it. The
 * link has neither ARP nor IPv6: both ends have the same hardware address, and know each other's address by a route. */
#define _GNU_SOURCE
#include "networks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define UID_RANGE 65536
#define LINKS_MAX 8192
#define INSIDE "eth0"
#define ACTIVE_TIMEOUT_MS 5000

static int own_namespace = -1, host = -1;
static struct { char name[IFNAMSIZ]; int user, net; } held[LINKS_MAX];

int links_open(void)
{
	own_namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (own_namespace < 0)
		return fail("open the own network namespace");
	host = netlink_open(NETLINK_ROUTE);
	return host < 0 ? -1 : 0;
}

static int child_waits(void *parent)
{
	/* It has the node's end of our input: it must not outlive us. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == *(const pid_t *)parent)
		pause();
	return 0;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t wrote = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return wrote < 0 ? -1 : 0;
}

/* A setting of the network namespace we are in. Kernels without IPv6 lack some. */
static int setting(const char *path, const char *value)
{
	char full[128];
	snprintf(full, sizeof full, "/proc/sys/net/%s", path);
	return write_text(full, value) != 0 && errno != ENOENT ? fail("write %s", full) : 0;
}

static int make_namespaces(uint32_t base, int *user, int *net)
{
	static char stack[4096] __attribute__((aligned(16)));
	char path[64], map[48];
	int result = 0;
	/* In one call, so that the user namespace owns the network namespace. */
	pid_t parent = getpid();
	pid_t pid = clone(child_waits, stack + sizeof stack, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, &parent);
	if (pid < 0)
		return fail("clone namespaces");
	snprintf(map, sizeof map, "0 %u %u\n", base, UID_RANGE);
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	result |= write_text(path, map);
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	result |= write_text(path, map);
	if (result != 0)
		fail("map ids");
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	*user = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
	*net = open(path, O_RDONLY | O_CLOEXEC);
	if (*user < 0 || *net < 0)
		result = fail("open namespaces");
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return result;
}

static int ask(int fd, struct message *message, uint32_t sequence, const char *what)
{
	message_end(message);
	int error = netlink_ask(fd, message, sequence, sequence, NULL, NULL);
	message->bytes = 0;
	errno = -error;
	return error == 0 ? 0 : fail("%s", what);
}

static int make_veth(const struct link_request *request, int net)
{
	static struct message message;
	message.bytes = 0;
	struct ifinfomsg link = { .ifi_family = AF_UNSPEC };
	unsigned char hardware[6] = { 0x02, 0x62 };
	uint32_t sequence = netlink_sequence(1);
	memcpy(hardware + 2, &request->sandbox, 4);
	message_begin(&message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sequence);
	message_append(&message, &link, sizeof link);
	attribute_text(&message, IFLA_IFNAME, request->name);
	attribute(&message, IFLA_ADDRESS, hardware, sizeof hardware);
	attribute(&message, IFLA_MTU, &request->mtu, sizeof request->mtu);
	size_t info = nest_begin(&message, IFLA_LINKINFO);
	attribute_text(&message, IFLA_INFO_KIND, "veth");
	size_t data = nest_begin(&message, IFLA_INFO_DATA), peer = nest_begin(&message, VETH_INFO_PEER);
	message_append(&message, &link, sizeof link);
	attribute_text(&message, IFLA_IFNAME, INSIDE);
	attribute(&message, IFLA_ADDRESS, hardware, sizeof hardware);
	attribute(&message, IFLA_MTU, &request->mtu, sizeof request->mtu);
	attribute(&message, IFLA_NET_NS_FD, &net, sizeof net);
	nest_end(&message, peer);
	nest_end(&message, data);
	nest_end(&message, info);
	return ask(host, &message, sequence, "make the link");
}

static int index_of(int fd, const char *name)
{
	struct ifreq query = { 0 };
	strncpy(query.ifr_name, name, IFNAMSIZ - 1);
	return ioctl(fd, SIOCGIFINDEX, &query) != 0 ? fail("find the link %s", name) : query.ifr_ifindex;
}

static int raise_link(int fd, int index, unsigned flags)
{
	static struct message message;
	message.bytes = 0;
	struct ifinfomsg link = { .ifi_index = index, .ifi_flags = IFF_UP | flags, .ifi_change = IFF_UP | flags };
	uint32_t sequence = netlink_sequence(1);
	message_begin(&message, RTM_NEWLINK, NLM_F_ACK, sequence);
	message_append(&message, &link, sizeof link);
	return ask(fd, &message, sequence, "raise the link");
}

static int set_address(int fd, int index, struct in_addr own, struct in_addr other)
{
	static struct message message;
	message.bytes = 0;
	struct ifaddrmsg address = { .ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = (unsigned)index };
	uint32_t sequence = netlink_sequence(1);
	message_begin(&message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sequence);
	message_append(&message, &address, sizeof address);
	attribute(&message, IFA_LOCAL, &own, sizeof own);
	attribute(&message, IFA_ADDRESS, &other, sizeof other);
	return ask(fd, &message, sequence, "set the address of the link");
}

static int set_default_route(int fd, int index, struct in_addr gateway)
{
	static struct message message;
	message.bytes = 0;
	struct rtmsg route = {
		.rtm_family = AF_INET,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_scope = RT_SCOPE_UNIVERSE,
		.rtm_type = RTN_UNICAST,
		.rtm_flags = RTNH_F_ONLINK,
	};
	uint32_t sequence = netlink_sequence(1);
	message_begin(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sequence);
	message_append(&message, &route, sizeof route);
	attribute(&message, RTA_GATEWAY, &gateway, sizeof gateway);
	attribute(&message, RTA_OIF, &index, sizeof index);
	return ask(fd, &message, sequence, "set the default route");
}

/* What is inside, seen from the outside: a socket in the network namespace, and the number of the link there. */
struct inside { int fd, index; };

static int set_up_inside(const struct link_request *request, struct inside *inside)
{
	char groups[48];
	/* ping(8) without CAP_NET_RAW: every group of the sandbox may open ICMP echo sockets (icmp(7)). */
	snprintf(groups, sizeof groups, "%u %u", request->uid_base, request->uid_base + UID_RANGE - 1);
	if (setting("ipv6/conf/all/disable_ipv6", "1") != 0 || setting("ipv6/conf/default/disable_ipv6", "1") != 0 ||
		setting("ipv4/ping_group_range", groups) != 0)
		return -1;
	inside->fd = netlink_open(NETLINK_ROUTE);
	if (inside->fd < 0)
		return -1;
	int loopback = index_of(inside->fd, "lo");
	inside->index = index_of(inside->fd, INSIDE);
	if (loopback <= 0 || inside->index <= 0 || raise_link(inside->fd, loopback, 0) != 0 ||
		set_address(inside->fd, inside->index, request->sandbox, request->host) != 0 ||
		raise_link(inside->fd, inside->index, IFF_NOARP) != 0)
		return -1;
	return set_default_route(inside->fd, inside->index, request->host);
}

static void note_state(const struct nlmsghdr *header, void *context)
{
	const struct nlattr *first = (const void *)((const char *)NLMSG_DATA(header) + NLMSG_ALIGN(sizeof(struct ifinfomsg)));
	const struct nlattr *state = attribute_find(first, header->nlmsg_len - NLMSG_LENGTH(sizeof(struct ifinfomsg)),
		IFLA_OPERSTATE);
	if (state != NULL)
		*(bool *)context = *(const unsigned char *)ATTRIBUTE_DATA(state) == IF_OPER_UP;
}

/* The inner end was raised before it had a carrier, so the kernel drops what it sends until it has looked at the link
 * again, in its own time; since Linux 6.5 asking makes it look. */
static int wait_until_active(const struct inside *inside)
{
	static struct message message;
	bool active = false;
	for (int tried = 0; tried < ACTIVE_TIMEOUT_MS; tried++) {
		struct ifinfomsg link = { .ifi_index = inside->index };
		uint32_t sequence = netlink_sequence(1);
		message.bytes = 0;
		message_begin(&message, RTM_GETLINK, NLM_F_ACK, sequence);
		message_append(&message, &link, sizeof link);
		message_end(&message);
		int error = netlink_ask(inside->fd, &message, sequence, sequence, note_state, &active);
		errno = -error;
		if (error != 0)
			return fail("ask for the state of the link");
		if (active)
			return 0;
		usleep(1000);
	}
	errno = ETIMEDOUT;
	return fail("wait for the link");
}

static int set_up_outside(const struct link_request *request)
{
	static const char *const settings[][2] = {
		{ "ipv6/conf/%s/disable_ipv6", "1" },
		{ "ipv4/conf/%s/forwarding", "1" },
		{ "ipv4/conf/%s/accept_redirects", "0" },
		{ "ipv4/conf/%s/send_redirects", "0" },
		{ "ipv4/conf/%s/accept_source_route", "0" },
		{ "ipv4/conf/%s/accept_local", "0" },
		{ "ipv4/conf/%s/route_localnet", "0" },
		{ "ipv4/conf/%s/proxy_arp", "0" },
	};
	char path[96];
	for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
		snprintf(path, sizeof path, "%.*s%s%s", (int)(strstr(settings[i][0], "%s") - settings[i][0]), settings[i][0],
			request->name, strstr(settings[i][0], "%s") + 2);
		if (setting(path, settings[i][1]) != 0)
			return -1;
	}
	int index = index_of(host, request->name);
	if (index <= 0 || set_address(host, index, request->host, request->sandbox) != 0)
		return -1;
	return raise_link(host, index, IFF_NOARP);
}

static int in_namespace(int net, const struct link_request *request, struct inside *inside)
{
	if (setns(net, CLONE_NEWNET) != 0)
		return fail("enter the network namespace");
	int result = set_up_inside(request, inside);
	/* Where we cannot come back, nothing else of ours may go on. */
	if (setns(own_namespace, CLONE_NEWNET) != 0)
		_exit(4);
	return result;
}

static int set_up(const struct link_request *request, int net)
{
	struct inside inside = { .fd = -1 };
	int result = in_namespace(net, request, &inside);
	if (result == 0)
		result = set_up_outside(request);
	if (result == 0)
		result = wait_until_active(&inside);
	if (inside.fd >= 0)
		close(inside.fd);
	return result;
}

int link_make(const struct link_request *request, int *user, int *net)
{
	int slot = 0;
	*user = *net = -1;
	while (slot < LINKS_MAX && held[slot].name[0] != '\0')
		slot++;
	if (slot == LINKS_MAX)
		return fail("too many links");
	if (make_namespaces(request->uid_base, user, net) == 0 && make_veth(request, *net) == 0) {
		if (set_up(request, *net) == 0) {
			snprintf(held[slot].name, sizeof held[slot].name, "%s", request->name);
			held[slot].user = *user;
			held[slot].net = *net;
			return 0;
		}
		link_remove(request->name);
	}
	if (*user >= 0)
		close(*user);
	if (*net >= 0)
		close(*net);
	return -1;
}

/* One that is not there is removed already. */
int link_remove(const char *name)
{
	static struct message message;
	message.bytes = 0;
	struct ifinfomsg link = { .ifi_family = AF_UNSPEC };
	uint32_t sequence = netlink_sequence(1);
	message_begin(&message, RTM_DELLINK, NLM_F_ACK, sequence);
	message_append(&message, &link, sizeof link);
	attribute_text(&message, IFLA_IFNAME, name);
	message_end(&message);
	int error = netlink_ask(host, &message, sequence, sequence, NULL, NULL);
	for (int i = 0; i < LINKS_MAX; i++) {
		if (strcmp(held[i].name, name) != 0)
			continue;
		close(held[i].user);
		close(held[i].net);
		held[i].name[0] = '\0';
	}
	errno = -error;
	return error == 0 || error == -ENODEV ? 0 : fail("remove the link %s", name);
}

static int move_link(int from, int to)
{
	static struct message message;
	if (setns(from, CLONE_NEWNET) != 0)
		return fail("enter the network namespace of the link");
	int fd = netlink_open(NETLINK_ROUTE), index = fd < 0 ? -1 : index_of(fd, INSIDE);
	if (index <= 0)
		return -1;
	struct ifinfomsg link = { .ifi_index = index };
	uint32_t sequence = netlink_sequence(1);
	message_begin(&message, RTM_NEWLINK, NLM_F_ACK, sequence);
	message_append(&message, &link, sizeof link);
	attribute(&message, IFLA_NET_NS_FD, &to, sizeof to);
	int result = ask(fd, &message, sequence, "move the link");
	close(fd);
	return result;
}

/* Moves the inner end of a link into the network namespace of a process that is being restored, and sets it up there. Sockets
 * that are bound to an address which the sandbox that was saved had are bound to it again. */
int link_adopt(const char *namespace, pid_t pid, const struct link_request *request)
{
	char path[64];
	struct inside inside = { .fd = -1 };
	snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
	int from = open(namespace, O_RDONLY | O_CLOEXEC), to = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0 || to < 0)
		return fail("open the network namespaces");
	if (move_link(from, to) != 0)
		return -1;
	if (setns(to, CLONE_NEWNET) != 0)
		return fail("enter the network namespace");
	if (setting("ipv4/ip_nonlocal_bind", "1") != 0 || set_up_inside(request, &inside) != 0)
		return -1;
	return wait_until_active(&inside);
}
