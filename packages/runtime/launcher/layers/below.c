/* Paths below a directory. The kernel sees to it that no link is followed and nothing is left (openat2(2)); a path that is
 * longer than it takes is opened in parts. */
#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not empty, and nothing but names between single slashes. */
bool valid_path(const char *path, size_t bytes)
{
	if (bytes == 0 || bytes > MAX_PATH_BYTES || memchr(path, '\0', bytes) != NULL)
		return false;
	for (const char *name = path, *end = path + bytes; name <= end;) {
		const char *slash = memchr(name, '/', (size_t)(end - name));
		size_t length = (size_t)((slash != NULL ? slash : end) - name);
		if (length == 0 || length > MAX_NAME_BYTES || (length <= 2 && memcmp(name, "..", length) == 0))
			return false;
		name += length + 1;
	}
	return true;
}

static int open_part(int root, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };
	int fd;
	while ((fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how)) < 0 && errno == EAGAIN)
		;
	return fd;
}

int open_below(int root, const char *path, size_t bytes, int flags)
{
	char part[PATH_MAX];
	int at = root;
	while (at >= 0) {
		size_t length = bytes;
		if (length >= sizeof part)
			for (length = sizeof part - 1; path[length] != '/';)
				length--;
		memcpy(part, path, length);
		part[length] = '\0';
		bool last = length == bytes;
		int next = open_part(at, part, last ? flags : O_PATH | O_DIRECTORY);
		int error = errno;
		if (at != root)
			close(at);
		errno = error;
		if (last)
			return next;
		at = next;
		path += length + 1;
		bytes -= length + 1;
	}
	return -1;
}

int parent_below(int root, const char *path, size_t bytes, const char **name)
{
	static char parent[MAX_PATH_BYTES];
	static size_t parent_bytes;
	static int fd = -1, of = -1;
	const char *slash = memrchr(path, '/', bytes);
	*name = slash != NULL ? slash + 1 : path;
	if (slash == NULL)
		return root;
	size_t length = (size_t)(slash - path);
	if (fd >= 0 && of == root && length == parent_bytes && memcmp(parent, path, length) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	of = root;
	parent_bytes = length;
	memcpy(parent, path, length);
	return fd = open_below(root, path, length, O_PATH | O_DIRECTORY);
}
