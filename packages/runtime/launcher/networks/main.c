#define _GNU_SOURCE
#include "networks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_WORDS 8
#define MAX_ANSWER_BYTES (64 * 1024)
#define MAX_DESTINATIONS 4096

char failure[512];

int fail(const char *format, ...)
{
	int error = errno;
	va_list arguments;
	if (failure[0] != '\0')
		return -1;
	va_start(arguments, format);
	int used = vsnprintf(failure, sizeof failure, format, arguments);
	va_end(arguments);
	if (error != 0 && used >= 0 && (size_t)used < sizeof failure)
		snprintf(failure + used, sizeof failure - (size_t)used, ": %s", strerror(error));
	return -1;
}

static int address(const char *text, struct in_addr *address)
{
	errno = 0;
	return inet_pton(AF_INET, text, address) == 1 ? 0 : fail("%s is not an address", text);
}

static int make(char **word, char *answer)
{
	struct link_request request = { .name = word[0], .uid_base = (uint32_t)strtoul(word[3], NULL, 10),
		.mtu = (uint32_t)strtoul(word[4], NULL, 10) };
	int user, net;
	if (strlen(word[0]) >= IFNAMSIZ || address(word[1], &request.host) != 0 || address(word[2], &request.sandbox) != 0 ||
		link_make(&request, &user, &net) != 0)
		return fail("%s cannot be made", word[0]);
	sprintf(answer, "%d %d", user, net);
	return 0;
}

static int cut(const char *source, char *list, char *answer)
{
	static struct in_addr destinations[MAX_DESTINATIONS];
	struct in_addr from;
	int count = 0;
	unsigned ended;
	if (address(source, &from) != 0)
		return -1;
	if (strcmp(list, "*") != 0)
		for (char *rest = list, *word; (word = strsep(&rest, ",")) != NULL && count < MAX_DESTINATIONS;)
			if (address(word, &destinations[count++]) != 0)
				return -1;
	if (flows_cut(from, destinations, count, &ended) != 0)
		return -1;
	sprintf(answer, "%u", ended);
	return 0;
}

static int perform(const char *operation, char **word, int count, char *answer)
{
	struct in_addr source;
	if (strcmp(operation, "make") == 0 && count == 5)
		return make(word, answer);
	if (strcmp(operation, "remove") == 0 && count == 1)
		return link_remove(word[0]);
	if (strcmp(operation, "change") == 0 && count == 2)
		return sets_change(word[0], word[1]);
	if (strcmp(operation, "count") == 0 && count == 4) {
		uint64_t sent, received;
		if (sets_count(word[0], word[1], word[3], &sent) != 0 || sets_count(word[0], word[2], word[3], &received) != 0)
			return -1;
		sprintf(answer, "%llu %llu", (unsigned long long)sent, (unsigned long long)received);
		return 0;
	}
	if (strcmp(operation, "flows") == 0 && count == 1)
		return address(word[0], &source) != 0 ? -1 : flows_list(source, answer, MAX_ANSWER_BYTES);
	if (strcmp(operation, "cut") == 0 && count == 2)
		return cut(word[0], word[1], answer);
	errno = 0;
	return fail("the request is not known");
}

/* A request is a line: a tag, an operation, and its words, separated by tabs. The answer begins with the tag. */
static void serve(char *line)
{
	static char answer[MAX_ANSWER_BYTES];
	char *rest = line, *tag = strsep(&rest, "\t"), *operation = strsep(&rest, "\t"), *word[MAX_WORDS], *next;
	int count = 0;
	while (count < MAX_WORDS && (next = strsep(&rest, "\t")) != NULL)
		word[count++] = next;
	failure[0] = answer[0] = '\0';
	bool done = operation != NULL && perform(operation, word, count, answer) == 0;
	printf("%s\t%s\t%s\n", tag, done ? "ok" : "error", done ? answer : failure);
	fflush(stdout);
}

/* networks adopt NAMESPACE PID ADDRESS HOST UID-BASE: what the launcher asks for while CRIU restores. */
static int adopt(char **word)
{
	struct link_request request = { .name = "", .uid_base = (uint32_t)strtoul(word[4], NULL, 10) };
	if (address(word[2], &request.sandbox) == 0 && address(word[3], &request.host) == 0 &&
		link_adopt(word[0], (pid_t)atoi(word[1]), &request) == 0)
		return 0;
	fprintf(stderr, "%s\n", failure);
	return 1;
}

/* Links and namespaces that nothing runs in end with us: only our descriptors hold them. */
int main(int argc, char **argv)
{
	struct rlimit files;
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	if (argc == 7 && strcmp(argv[1], "adopt") == 0)
		return adopt(argv + 2);
	/* Two descriptors a link. A terminal's Ctrl-C is for the node, which ends us by closing our standard input. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGINT, SIG_IGN);
	if (links_open() != 0 || sets_open() != 0 || flows_open() != 0) {
		printf("\tfatal\t%s\n", failure);
		return 1;
	}
	printf("\topen\t\n");
	fflush(stdout);
	while ((length = getline(&line, &room, stdin)) > 0) {
		line[length - 1] = '\0';
		serve(line);
	}
	return 0;
}
