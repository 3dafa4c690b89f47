/* Bytes of files, by request: one process for any number of them. */
#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct request {
	uint32_t path_bytes, length;
	uint64_t offset;
};

struct answer {
	uint32_t error, bytes;
	uint64_t size;
};

/* The file of the request before: a large one is asked for part by part. */
static struct {
	int fd;
	size_t path_bytes;
	char path[MAX_PATH_BYTES];
	uint64_t size;
} last = { .fd = -1 };

static int open_file(int root, const char *path, size_t bytes)
{
	struct stat status;
	if (last.fd >= 0 && bytes == last.path_bytes && memcmp(path, last.path, bytes) == 0)
		return 0;
	if (last.fd >= 0)
		close(last.fd);
	last.fd = open_below(root, path, bytes, O_RDONLY | O_NONBLOCK);
	if (last.fd < 0)
		return errno;
	if (fstat(last.fd, &status) != 0 || !S_ISREG(status.st_mode)) {
		close(last.fd);
		last.fd = -1;
		return ENOENT;
	}
	memcpy(last.path, path, bytes);
	last.path_bytes = bytes;
	last.size = (uint64_t)status.st_size;
	return 0;
}

static int serve(int root, const struct request *request, const char *path)
{
	static char data[MAX_READ_BYTES];
	struct answer answer = { .error = EINVAL };
	if (valid_path(path, request->path_bytes) && request->length <= sizeof data && request->offset <= INT64_MAX)
		answer.error = (uint32_t)open_file(root, path, request->path_bytes);
	while (answer.error == 0 && answer.bytes < request->length) {
		ssize_t got = pread(last.fd, data + answer.bytes, request->length - answer.bytes,
			(off_t)(request->offset + answer.bytes));
		if (got < 0 && errno != EINTR)
			answer.error = (uint32_t)errno;
		if (got == 0)
			break;
		answer.bytes += got > 0 ? (uint32_t)got : 0;
	}
	if (answer.error == 0)
		answer.size = last.size;
	else
		answer.bytes = 0;
	return output(&answer, sizeof answer) != 0 || output(data, answer.bytes) != 0 ? -1 : 0;
}

int serve_reads(const char *directory)
{
	struct request request;
	char path[MAX_PATH_BYTES];
	int root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail("open %s", directory);
	while (input(&request, sizeof request) == 1) {
		if (request.path_bytes > sizeof path || input(path, request.path_bytes) != 1)
			return errno = 0, fail("a request is not understood");
		if (serve(root, &request, path) != 0 || (!input_waits() && output_flush() != 0))
			return -1;
	}
	return output_flush();
}
