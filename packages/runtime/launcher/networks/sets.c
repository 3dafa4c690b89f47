/* Elements of nftables sets, changed over netlink: starting nft(8) for each change would cost the caller ten milliseconds.
 * The sets themselves, and the rules that look into them, are nft's work (`ruleset.ts`). */
#define _GNU_SOURCE
#include "networks.h"

#include <endian.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_KEY_BYTES 64
#define MAX_COMMENT_BYTES 127
/* What nft(8) writes as `comment`: a type, a length, a text (libnftnl's NFTNL_UDATA_SET_ELEM_COMMENT). */
#define COMMENT_TYPE 0

static int fd = -1;

struct item {
	char operation; /* + add, - remove, = put in place of what is there, ~ remove if it is there */
	const char *set, *comment;
	unsigned char key[MAX_KEY_BYTES];
	size_t key_bytes;
	uint64_t timeout_ms, bytes_per_second;
	uint32_t burst, connections;
};

int sets_open(void)
{
	fd = netlink_open(NETLINK_NETFILTER);
	return fd < 0 ? -1 : 0;
}

static int parse_key(struct item *item, const char *text)
{
	size_t length = strlen(text);
	if (length == 0 || length % 2 != 0 || length / 2 > MAX_KEY_BYTES || strspn(text, "0123456789abcdef") != length)
		return -1;
	for (size_t i = 0; i < length / 2; i++) {
		unsigned byte;
		sscanf(text + 2 * i, "%2x", &byte);
		item->key[i] = (unsigned char)byte;
	}
	item->key_bytes = length / 2;
	return 0;
}

static int parse_item(struct item *item, char *text)
{
	char *rest = text, *word = strsep(&rest, " "), *set = strsep(&rest, " "), *key = strsep(&rest, " ");
	memset(item, 0, sizeof *item);
	errno = 0;
	if (word == NULL || strlen(word) != 1 || strchr("+-=~", *word) == NULL || key == NULL || parse_key(item, key) != 0)
		return fail("the change is not understood");
	item->operation = *word;
	item->set = set;
	while ((word = strsep(&rest, " ")) != NULL) {
		char *value = strchr(word, '=');
		if (value == NULL)
			return fail("the change is not understood");
		value++;
		if (*word == 'c' && strlen(value) <= MAX_COMMENT_BYTES)
			item->comment = value;
		else if (*word == 't')
			item->timeout_ms = strtoull(value, NULL, 10);
		else if (*word == 'n')
			item->connections = (uint32_t)strtoul(value, NULL, 10);
		else if (*word == 'r')
			item->bytes_per_second = strtoull(value, NULL, 10);
		else if (*word == 'b')
			item->burst = (uint32_t)strtoul(value, NULL, 10);
		else
			return fail("the change is not understood");
	}
	return 0;
}

static void big32(struct message *message, uint16_t type, uint32_t value)
{
	uint32_t big = htobe32(value);
	attribute(message, type, &big, sizeof big);
}

static void big64(struct message *message, uint16_t type, uint64_t value)
{
	uint64_t big = htobe64(value);
	attribute(message, type, &big, sizeof big);
}

/* An expression of the element, in place of the one that its set has for all. */
static void append_expression(struct message *message, const struct item *item)
{
	if (item->connections == 0 && item->bytes_per_second == 0)
		return;
	size_t expression = nest_begin(message, NFTA_SET_ELEM_EXPR);
	attribute_text(message, NFTA_EXPR_NAME, item->connections > 0 ? "connlimit" : "limit");
	size_t data = nest_begin(message, NFTA_EXPR_DATA);
	if (item->connections > 0) {
		big32(message, NFTA_CONNLIMIT_COUNT, item->connections);
		big32(message, NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
	} else {
		big64(message, NFTA_LIMIT_RATE, item->bytes_per_second);
		big64(message, NFTA_LIMIT_UNIT, 1);
		big32(message, NFTA_LIMIT_BURST, item->burst);
		big32(message, NFTA_LIMIT_TYPE, NFT_LIMIT_PKT_BYTES);
		big32(message, NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV);
	}
	nest_end(message, data);
	nest_end(message, expression);
}

static void append_element(struct message *message, const char *table, const struct item *item, bool remove, bool acknowledge,
	uint32_t sequence)
{
	uint16_t type = (NFNL_SUBSYS_NFTABLES << 8) | (remove ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM);
	netfilter_begin(message, type, (remove ? 0 : NLM_F_CREATE) | (acknowledge ? NLM_F_ACK : 0), sequence, NFPROTO_INET, 0);
	attribute_text(message, NFTA_SET_ELEM_LIST_TABLE, table);
	attribute_text(message, NFTA_SET_ELEM_LIST_SET, item->set);
	size_t elements = nest_begin(message, NFTA_SET_ELEM_LIST_ELEMENTS), element = nest_begin(message, NFTA_LIST_ELEM);
	size_t key = nest_begin(message, NFTA_SET_ELEM_KEY);
	attribute(message, NFTA_DATA_VALUE, item->key, item->key_bytes);
	nest_end(message, key);
	if (!remove) {
		if (item->timeout_ms > 0)
			big64(message, NFTA_SET_ELEM_TIMEOUT, item->timeout_ms);
		append_expression(message, item);
		if (item->comment != NULL) {
			unsigned char data[MAX_COMMENT_BYTES + 3] = { COMMENT_TYPE, (unsigned char)(strlen(item->comment) + 1) };
			memcpy(data + 2, item->comment, strlen(item->comment));
			attribute(message, NFTA_SET_ELEM_USERDATA, data, strlen(item->comment) + 3);
		}
	}
	nest_end(message, element);
	nest_end(message, elements);
	message_end(message);
}

/* One transaction: all of it or nothing. `again`: what is there is removed before it is added. */
static int transact(const char *table, const struct item *items, int count, bool again)
{
	static struct message message;
	uint32_t first = netlink_sequence((unsigned)(count * 2 + 2)), sequence = first;
	message.bytes = 0;
	netfilter_begin(&message, NFNL_MSG_BATCH_BEGIN, 0, sequence++, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	message_end(&message);
	for (int i = 0; i < count; i++) {
		bool remove = items[i].operation == '-' || items[i].operation == '~';
		if (again && !remove)
			append_element(&message, table, &items[i], true, false, sequence++);
		append_element(&message, table, &items[i], remove, i == count - 1, sequence++);
	}
	uint32_t last = sequence - 1;
	netfilter_begin(&message, NFNL_MSG_BATCH_END, 0, sequence, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	message_end(&message);
	return netlink_ask(fd, &message, first, last, NULL, NULL);
}

static int alone(const char *table, const struct item *item)
{
	int error = transact(table, item, 1, item->operation == '=');
	if (error == -ENOENT && item->operation == '=')
		error = transact(table, item, 1, false);
	return error == -ENOENT && item->operation == '~' ? 0 : error;
}

/* Everything added and removed outright in one transaction, the rest each by itself. */
int sets_change(const char *table, char *text)
{
	int count = 1, together = 0, error = 0;
	for (const char *at = text; *at != '\0'; at++)
		count += *at == ';';
	struct item *items = calloc((size_t)count, sizeof *items), item;
	if (items == NULL)
		return fail("out of memory");
	char *rest = text, *word;
	int parsed = 0, others = count;
	while (parsed == 0 && (word = strsep(&rest, ";")) != NULL) {
		parsed = parse_item(&item, word);
		if (item.operation == '+' || item.operation == '-')
			items[together++] = item;
		else
			items[--others] = item;
	}
	if (parsed == 0 && together > 0)
		error = transact(table, items, together, false);
	for (int i = count - 1; parsed == 0 && error == 0 && i >= others; i--)
		error = alone(table, &items[i]);
	free(items);
	errno = -error;
	return parsed != 0 ? -1 : error == 0 ? 0 : fail("change the rules of the network");
}

static void read_counter(const struct nlmsghdr *header, void *context)
{
	const char *data = (const char *)NLMSG_DATA(header) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	size_t bytes = header->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
	static const uint16_t path[] = { NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM, NFTA_SET_ELEM_EXPR, NFTA_EXPR_DATA,
		NFTA_COUNTER_BYTES };
	const struct nlattr *at = (const struct nlattr *)data;
	for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
		const struct nlattr *found = attribute_find(at, bytes, path[i]);
		if (found == NULL)
			return;
		at = ATTRIBUTE_DATA(found);
		bytes = ATTRIBUTE_BYTES(found);
	}
	uint64_t value;
	memcpy(&value, at, sizeof value);
	*(uint64_t *)context = be64toh(value);
}

int sets_count(const char *table, const char *set, const char *key, uint64_t *bytes)
{
	static struct message message;
	struct item item = { .set = set };
	uint32_t sequence = netlink_sequence(1);
	errno = 0;
	if (parse_key(&item, key) != 0)
		return fail("the key is not understood");
	message.bytes = 0;
	netfilter_begin(&message, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETSETELEM, NLM_F_ACK, sequence, NFPROTO_INET, 0);
	attribute_text(&message, NFTA_SET_ELEM_LIST_TABLE, table);
	attribute_text(&message, NFTA_SET_ELEM_LIST_SET, set);
	size_t elements = nest_begin(&message, NFTA_SET_ELEM_LIST_ELEMENTS), element = nest_begin(&message, NFTA_LIST_ELEM);
	size_t nest = nest_begin(&message, NFTA_SET_ELEM_KEY);
	attribute(&message, NFTA_DATA_VALUE, item.key, item.key_bytes);
	nest_end(&message, nest);
	nest_end(&message, element);
	nest_end(&message, elements);
	message_end(&message);
	*bytes = 0;
	int error = netlink_ask(fd, &message, sequence, sequence, read_counter, bytes);
	errno = -error;
	return error == 0 || error == -ENOENT ? 0 : fail("read a counter");
}
