#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

char failure[1024];
enum fault fault;

static char pending[256 * 1024];
static size_t pending_bytes;

static void say(enum fault kind, int error, const char *format, va_list arguments)
{
	if (failure[0] != '\0')
		return;
	fault = error == ENOSPC || error == EDQUOT ? FULL : kind;
	int used = vsnprintf(failure, sizeof failure, format, arguments);
	if (error != 0 && used >= 0 && (size_t)used < sizeof failure)
		snprintf(failure + used, sizeof failure - (size_t)used, ": %s", strerror(error));
}

int fail(const char *format, ...)
{
	int error = errno;
	va_list arguments;
	va_start(arguments, format);
	say(HOST, error, format, arguments);
	va_end(arguments);
	return -1;
}

int refuse(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	say(REFUSED, 0, format, arguments);
	va_end(arguments);
	return -1;
}

/* Names are anyone's bytes; a failure is a line that people read. Good until the next call. */
const char *printable(const char *bytes, size_t length)
{
	static char text[256];
	size_t used = 0;
	for (size_t i = 0; i < length && used < sizeof text - 4; i++)
		text[used++] = bytes[i] > ' ' && bytes[i] < 0x7f ? bytes[i] : '?';
	if (used < length)
		used += (size_t)sprintf(text + used, "...");
	text[used] = '\0';
	return text;
}

static int write_all(const char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t wrote = write(STDOUT_FILENO, data, bytes);
		if (wrote < 0 && errno != EINTR)
			return fail("write");
		data += wrote > 0 ? wrote : 0;
		bytes -= wrote > 0 ? (size_t)wrote : 0;
	}
	return 0;
}

int output_flush(void)
{
	size_t bytes = pending_bytes;
	pending_bytes = 0;
	return write_all(pending, bytes);
}

int output(const void *data, size_t bytes)
{
	if (pending_bytes + bytes > sizeof pending && output_flush() != 0)
		return -1;
	if (bytes > sizeof pending)
		return write_all(data, bytes);
	memcpy(pending + pending_bytes, data, bytes);
	pending_bytes += bytes;
	return 0;
}
