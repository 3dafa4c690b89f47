#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static char buffer[256 * 1024];
static size_t begin, end;

static ssize_t more(void)
{
	ssize_t got;
	while ((got = read(STDIN_FILENO, buffer, sizeof buffer)) < 0 && errno == EINTR)
		;
	begin = 0;
	end = got > 0 ? (size_t)got : 0;
	return got;
}

bool input_waits(void) { return begin < end; }

ssize_t input_some(const char **data, size_t most)
{
	if (begin == end && more() <= 0)
		return -1;
	size_t bytes = end - begin < most ? end - begin : most;
	*data = buffer + begin;
	begin += bytes;
	return (ssize_t)bytes;
}

int input(void *data, size_t bytes)
{
	for (size_t have = 0; have < bytes;) {
		const char *some;
		ssize_t got = input_some(&some, bytes - have);
		if (got < 0)
			return have == 0 ? 0 : -1;
		memcpy((char *)data + have, some, (size_t)got);
		have += (size_t)got;
	}
	return 1;
}
