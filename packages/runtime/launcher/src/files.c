#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

char failure[4096];

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

int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Ids become names of files and cgroups: letters, digits and _ only, so that no path can be made of them. */
bool valid_id(const char *id)
{
	size_t length = strlen(id);
	if (length == 0 || length >= ID_BYTES)
		return false;
	return strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789_") == length;
}

int write_file(const char *path, const char *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail("open %s", path);
	while (bytes > 0) {
		ssize_t wrote = write(fd, data, bytes);
		if (wrote < 0) {
			int error = errno;
			close(fd);
			errno = error;
			return fail("write %s", path);
		}
		data += wrote;
		bytes -= (size_t)wrote;
	}
	close(fd);
	return 0;
}

ssize_t read_file(const char *path, char *data, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -1;
	size_t have = 0;
	while (have + 1 < bytes) {
		ssize_t got = read(fd, data + have, bytes - 1 - have);
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	close(fd);
	data[have] = '\0';
	return (ssize_t)have;
}

int make_directory(const char *path, mode_t mode)
{
	if (mkdir(path, mode) == 0)
		return 0;
	if (errno == EEXIST)
		return 0;
	return fail("mkdir %s", path);
}

/* Removes what is below `fd`, never following a link and never leaving the file system. Depth is bounded by what a
 * path may be: a tree deeper than descriptors last is renamed flat by its owner's quota long before. */
static int remove_below(int parent, const char *name, int depth)
{
	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return fail("unlink %s", name);
	if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return fail("rmdir %s", name);
	if (depth > 1000)
		return fail("%s is too deep", name);
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return fail("open %s", name);
	DIR *directory = fdopendir(fd);
	if (directory == NULL) {
		close(fd);
		return fail("fdopendir %s", name);
	}
	struct dirent *entry;
	int result = 0;
	while (result == 0 && (entry = readdir(directory)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		result = remove_below(fd, entry->d_name, depth + 1);
	}
	closedir(directory);
	if (result == 0 && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
		return fail("rmdir %s", name);
	return result;
}

int remove_tree(const char *path)
{
	return remove_below(AT_FDCWD, path, 0);
}

int remove_tree_at(int directory, const char *name)
{
	return remove_below(directory, name, 0);
}

/* Names of the regular files in a folder. */
int files_list(const char *path, void (*each)(const char *name))
{
	DIR *directory = opendir(path);
	if (directory == NULL)
		return fail("open %s", path);
	struct dirent *entry;
	while ((entry = readdir(directory)) != NULL)
		if (entry->d_type == DT_REG)
			each(entry->d_name);
	closedir(directory);
	return 0;
}
