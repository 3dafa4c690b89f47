#define _GNU_SOURCE
#include "networks.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_BYTES (256 * 1024)
#define SOCKET_BYTES (4 * 1024 * 1024)

void *message_append(struct message *message, const void *data, size_t bytes)
{
	size_t padded = NLMSG_ALIGN(bytes);
	if (message->bytes + padded > message->room) {
		size_t room = (message->bytes + padded) * 2 + 4096;
		char *grown = realloc(message->data, room);
		if (grown == NULL)
			abort();
		message->data = grown;
		message->room = room;
	}
	char *at = message->data + message->bytes;
	memset(at, 0, padded);
	if (bytes > 0 && data != NULL)
		memcpy(at, data, bytes);
	message->bytes += padded;
	return at;
}

void message_begin(struct message *message, uint16_t type, uint16_t flags, uint32_t sequence)
{
	struct nlmsghdr header = { .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = sequence };
	message->header = message->bytes;
	message_append(message, &header, sizeof header);
}

void message_end(struct message *message)
{
	((struct nlmsghdr *)(message->data + message->header))->nlmsg_len = (uint32_t)(message->bytes - message->header);
}

void netfilter_begin(struct message *message, uint16_t type, uint16_t flags, uint32_t sequence, uint8_t family,
	uint16_t resource)
{
	struct nfgenmsg extra = { .nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(resource) };
	message_begin(message, type, flags, sequence);
	message_append(message, &extra, sizeof extra);
}

void attribute(struct message *message, uint16_t type, const void *data, size_t bytes)
{
	struct nlattr header = { .nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + bytes) };
	size_t at = message->bytes;
	message_append(message, NULL, NLA_HDRLEN + bytes);
	memcpy(message->data + at, &header, sizeof header);
	if (bytes > 0)
		memcpy(message->data + at + NLA_HDRLEN, data, bytes);
}

void attribute_text(struct message *message, uint16_t type, const char *text)
{
	attribute(message, type, text, strlen(text) + 1);
}

size_t nest_begin(struct message *message, uint16_t type)
{
	size_t at = message->bytes;
	attribute(message, type | NLA_F_NESTED, NULL, 0);
	return at;
}

void nest_end(struct message *message, size_t nest)
{
	((struct nlattr *)(message->data + nest))->nla_len = (uint16_t)(message->bytes - nest);
}

const struct nlattr *attribute_find(const struct nlattr *first, size_t bytes, uint16_t type)
{
	while (bytes >= sizeof *first && first->nla_len >= NLA_HDRLEN && first->nla_len <= bytes) {
		size_t step = NLA_ALIGN(first->nla_len);
		if ((first->nla_type & NLA_TYPE_MASK) == type)
			return first;
		if (step >= bytes)
			break;
		bytes -= step;
		first = (const struct nlattr *)((const char *)first + step);
	}
	return NULL;
}

uint32_t netlink_sequence(unsigned count)
{
	static uint32_t next = 1;
	uint32_t first = next;
	next += count;
	return first;
}

int netlink_open(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), bytes = SOCKET_BYTES;
	if (fd < 0)
		return fail("open netlink");
	/* A batch is one write. Beyond wmem_max only where we may. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	return fd;
}

int netlink_ask(int fd, const struct message *message, uint32_t first, uint32_t last,
	void (*each)(const struct nlmsghdr *header, void *context), void *context)
{
	static char received[RECEIVE_BYTES] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int result = 0;
	if (sendto(fd, message->data, message->bytes, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		return -errno;
	for (;;) {
		ssize_t got = recv(fd, received, sizeof received, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		size_t left = (size_t)got;
		for (struct nlmsghdr *header = (struct nlmsghdr *)received; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			/* What an earlier request left unread. */
			if (header->nlmsg_seq < first || header->nlmsg_seq > last)
				continue;
			if (header->nlmsg_type == NLMSG_DONE)
				return result;
			if (header->nlmsg_type != NLMSG_ERROR) {
				if (each != NULL)
					each(header, context);
				continue;
			}
			int error = ((struct nlmsgerr *)NLMSG_DATA(header))->error;
			if (error != 0 && result == 0)
				result = error;
			/* The first message of a batch is its beginning: an error there is the whole batch's. */
			if (header->nlmsg_seq == last || header->nlmsg_seq == first)
				return result;
		}
	}
}
