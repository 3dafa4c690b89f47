/* What networks of sandboxes need from the kernel and Node cannot ask for: network namespaces in user namespaces, links
 * into them, elements of nftables sets, and conntrack entries. README.md has the protocol. The peer
 * is the node, which is trusted. */
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/netlink.h>

/* Errors travel as text; the first one of a request wins. Returns -1 so that callers can `return fail(...)`. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern char failure[512];

/* netlink.c: a message under construction, and a socket to send it on. */
struct message {
	char *data;
	size_t bytes, room;
	size_t header; /* where the message that is being built begins; several may share the buffer */
};

void message_begin(struct message *message, uint16_t type, uint16_t flags, uint32_t sequence);
void message_end(struct message *message);
void *message_append(struct message *message, const void *data, size_t bytes);
void attribute(struct message *message, uint16_t type, const void *data, size_t bytes);
void attribute_text(struct message *message, uint16_t type, const char *text);
size_t nest_begin(struct message *message, uint16_t type);
void nest_end(struct message *message, size_t nest);
void netfilter_begin(struct message *message, uint16_t type, uint16_t flags, uint32_t sequence, uint8_t family,
	uint16_t resource);

int netlink_open(int protocol);
/* Sends all that was built and reads answers until the acknowledgement of `last`, or the end of a dump. Gives what
 * is not an acknowledgement to `each`. Returns 0, or the first error of the kernel as -errno. */
int netlink_ask(int fd, const struct message *message, uint32_t first, uint32_t last,
	void (*each)(const struct nlmsghdr *header, void *context), void *context);
uint32_t netlink_sequence(unsigned count);
const struct nlattr *attribute_find(const struct nlattr *first, size_t bytes, uint16_t type);
#define ATTRIBUTE_DATA(a) ((const void *)((const char *)(a) + NLA_HDRLEN))
#define ATTRIBUTE_BYTES(a) ((size_t)(a)->nla_len - NLA_HDRLEN)

/* links.c */
struct link_request {
	const char *name;
	struct in_addr host, sandbox;
	uint32_t uid_base;
	uint32_t mtu;
};
int links_open(void);
int link_make(const struct link_request *request, int *user, int *net);
int link_remove(const char *name);
int link_adopt(const char *namespace, pid_t pid, const struct link_request *request);

/* sets.c: `items` are separated by `;`. */
int sets_open(void);
int sets_change(const char *table, char *items);
int sets_count(const char *table, const char *set, const char *key, uint64_t *bytes);

/* flows.c */
int flows_open(void);
int flows_list(struct in_addr source, char *text, size_t bytes);
int flows_cut(struct in_addr source, const struct in_addr *destinations, int count, unsigned *cut);
