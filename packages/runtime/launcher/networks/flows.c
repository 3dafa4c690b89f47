/* Connections that the kernel tracks, by the sandbox that opened them. */
#define _GNU_SOURCE
#include "networks.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* `CTA_FILTER_FLAG(CTA_IP_SRC)` of the kernel's net/netfilter/nf_internals.h. */
#define FILTER_BY_SOURCE 1

static int fd = -1;

int flows_open(void)
{
	fd = netlink_open(NETLINK_NETFILTER);
	return fd < 0 ? -1 : 0;
}

struct found {
	struct in_addr source;
	struct message tuples; /* CTA_TUPLE_ORIG of each, as it came */
	size_t count;
};

static bool address_of(const struct nlattr *tuple, uint16_t type, struct in_addr *address)
{
	const struct nlattr *ip = attribute_find(ATTRIBUTE_DATA(tuple), ATTRIBUTE_BYTES(tuple), CTA_TUPLE_IP);
	const struct nlattr *value = ip == NULL ? NULL : attribute_find(ATTRIBUTE_DATA(ip), ATTRIBUTE_BYTES(ip), type);
	if (value == NULL || ATTRIBUTE_BYTES(value) != sizeof *address)
		return false;
	memcpy(address, ATTRIBUTE_DATA(value), sizeof *address);
	return true;
}

static void note(const struct nlmsghdr *header, void *context)
{
	struct found *found = context;
	const struct nlattr *first = (const void *)((const char *)NLMSG_DATA(header) + NLMSG_ALIGN(sizeof(struct nfgenmsg)));
	size_t bytes = header->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
	const struct nlattr *tuple = attribute_find(first, bytes, CTA_TUPLE_ORIG);
	struct in_addr source;
	/* The kernel filters; one that does not know the filter sends all. */
	if (tuple == NULL || !address_of(tuple, CTA_IP_V4_SRC, &source) || source.s_addr != found->source.s_addr)
		return;
	message_append(&found->tuples, tuple, tuple->nla_len);
	found->count++;
}

static int find(struct found *found)
{
	static struct message message;
	uint32_t sequence = netlink_sequence(1), flags = FILTER_BY_SOURCE, none = 0;
	message.bytes = 0;
	netfilter_begin(&message, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET, NLM_F_DUMP, sequence, AF_INET, 0);
	size_t tuple = nest_begin(&message, CTA_TUPLE_ORIG), ip = nest_begin(&message, CTA_TUPLE_IP);
	attribute(&message, CTA_IP_V4_SRC, &found->source, sizeof found->source);
	nest_end(&message, ip);
	nest_end(&message, tuple);
	size_t filter = nest_begin(&message, CTA_FILTER);
	attribute(&message, CTA_FILTER_ORIG_FLAGS, &flags, sizeof flags);
	attribute(&message, CTA_FILTER_REPLY_FLAGS, &none, sizeof none);
	nest_end(&message, filter);
	message_end(&message);
	int error = netlink_ask(fd, &message, sequence, sequence, note, found);
	errno = -error;
	return error == 0 ? 0 : fail("list connections");
}

static const struct nlattr *next(const struct nlattr *tuple)
{
	return (const struct nlattr *)((const char *)tuple + NLMSG_ALIGN(tuple->nla_len));
}

int flows_list(struct in_addr source, char *text, size_t bytes)
{
	struct found found = { .source = source };
	size_t used = 0;
	int result = find(&found);
	const struct nlattr *tuple = (const void *)found.tuples.data;
	text[0] = '\0';
	for (size_t i = 0; result == 0 && i < found.count; i++, tuple = next(tuple)) {
		char address[INET_ADDRSTRLEN];
		struct in_addr destination;
		if (!address_of(tuple, CTA_IP_V4_DST, &destination))
			continue;
		inet_ntop(AF_INET, &destination, address, sizeof address);
		if (used + strlen(address) + 2 < bytes)
			used += (size_t)snprintf(text + used, bytes - used, "%s%s", used > 0 ? " " : "", address);
	}
	free(found.tuples.data);
	return result;
}

static bool wanted(const struct nlattr *tuple, const struct in_addr *destinations, int count)
{
	struct in_addr destination;
	if (count == 0 || !address_of(tuple, CTA_IP_V4_DST, &destination))
		return true;
	for (int i = 0; i < count; i++)
		if (destinations[i].s_addr == destination.s_addr)
			return true;
	return false;
}

/* `count` 0: whatever their destination. */
int flows_cut(struct in_addr source, const struct in_addr *destinations, int count, unsigned *cut)
{
	static struct message message;
	struct found found = { .source = source };
	int result = find(&found);
	const struct nlattr *tuple = (const void *)found.tuples.data;
	*cut = 0;
	for (size_t i = 0; result == 0 && i < found.count; i++, tuple = next(tuple)) {
		if (!wanted(tuple, destinations, count))
			continue;
		uint32_t sequence = netlink_sequence(1);
		message.bytes = 0;
		netfilter_begin(&message, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE, NLM_F_ACK, sequence, AF_INET, 0);
		message_append(&message, tuple, tuple->nla_len);
		message_end(&message);
		int error = netlink_ask(fd, &message, sequence, sequence, NULL, NULL);
		errno = -error;
		if (error == 0)
			++*cut;
		else if (error != -ENOENT)
			result = fail("end a connection");
	}
	free(found.tuples.data);
	return result;
}
