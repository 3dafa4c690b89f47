#define _GNU_SOURCE
#include "layers.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t number(const char *text) { return strtoull(text, NULL, 10); }

int main(int count, char **word)
{
	/* A terminal's Ctrl-C is for the node, which ends us by closing our standard input. */
	signal(SIGINT, SIG_IGN);
	umask(0);
	if (count == 5 && strcmp(word[1], "walk") == 0)
		return walk(word[2], number(word[4]), strcmp(word[3], "plain") == 0) == 0 ? 0 : 1;
	if (count == 3 && strcmp(word[1], "read") == 0) {
		if (serve_reads(word[2]) == 0)
			return 0;
		dprintf(STDERR_FILENO, "%s\n", failure);
		return 1;
	}
	if (count == 5 && strcmp(word[1], "write") == 0) {
		static const char *const kinds[] = { "failed", "refused", "full" };
		if (write_layer(word[2], number(word[3]), number(word[4])) == 0)
			return 0;
		printf("%s %s\n", kinds[fault], failure);
		return 1;
	}
	dprintf(STDERR_FILENO, "usage: layers walk DIR overlay|plain MAX-ENTRIES | read DIR | write DIR MAX-ENTRIES MAX-BYTES\n");
	return 2;
}
