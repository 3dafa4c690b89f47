/* Makes a layer of records. Only we write below the directory; what the records say is checked as if an enemy had written
 * them. They come in the order of the bytes of their paths, so that nothing comes twice and parents come first. */
#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HOLE_BYTES 65536
#define ENTRY_BYTES 512 /* what a file costs beside its bytes */

/* Times of directories are set when nothing is made in them any more. */
struct directory {
	struct timespec modified;
	uint32_t path_bytes;
	char path[];
};

static int root;
static struct header header;
static char path[MAX_PATH_BYTES], target[MAX_PATH_BYTES + 1], before[MAX_PATH_BYTES];
static size_t before_bytes;
static struct attributes attributes;
static struct directory **directories;
static size_t directory_count, directory_room;
static uint64_t entries, max_entries, bytes, max_bytes;

static const char *shown(void)
{
	/* Not `printable`'s own buffer: texts name two things. */
	static char text[256];
	return strcpy(text, printable(path, header.path_bytes));
}

static int refuse_entry(const char *why) { return refuse("%s %s", shown(), why); }

static int fail_entry(const char *what)
{
	/* What no file system takes is the fault of what came in. */
	if (errno == EINVAL || errno == ENAMETOOLONG || errno == EEXIST || errno == EMLINK)
		return refuse("%s cannot be made: %s", shown(), strerror(errno));
	return fail("%s %s", what, shown());
}

static int spend(uint64_t cost)
{
	if (bytes + cost < bytes || bytes + cost > max_bytes) {
		errno = ENOSPC;
		return fail("it has more than %llu bytes", (unsigned long long)max_bytes);
	}
	bytes += cost;
	return 0;
}

/* 1: a record, 0: all came. */
static int next_record(void)
{
	int got = input(&header, sizeof header);
	if (got != 1)
		return refuse("it ends in the middle");
	size_t rest = (size_t)header.path_bytes + header.target_bytes;
	if (header.type == '.')
		return header.bytes == sizeof header && rest == 0 && header.size == entries ? 0 : refuse("it is not whole");
	if (header.path_bytes > sizeof path || header.target_bytes >= sizeof target || header.bytes < sizeof header + rest ||
		header.bytes - sizeof header - rest > sizeof attributes.data)
		return refuse("a record is not understood");
	attributes.count = header.xattrs;
	attributes.bytes = header.bytes - sizeof header - rest;
	if (input(path, header.path_bytes) != 1 || (header.target_bytes > 0 && input(target, header.target_bytes) != 1) ||
		(attributes.bytes > 0 && input(attributes.data, attributes.bytes) != 1))
		return refuse("it ends in the middle");
	target[header.target_bytes] = '\0';
	return 1;
}

static int check_order(void)
{
	size_t common = before_bytes < header.path_bytes ? before_bytes : header.path_bytes;
	int order = memcmp(before, path, common);
	if (order > 0 || (order == 0 && header.path_bytes <= before_bytes))
		return refuse_entry("comes twice, or too late");
	memcpy(before, path, header.path_bytes);
	before_bytes = header.path_bytes;
	return 0;
}

static int check_record(void)
{
	if (!valid_path(path, header.path_bytes))
		return refuse_entry("is no path below the root");
	if (check_order() != 0)
		return -1;
	if (header.mode > 07777 || header.uid == UINT32_MAX || header.gid == UINT32_MAX || header.modified_ns > 999999999)
		return refuse_entry("has a mode, an owner or a time that there is not");
	bool has_target = header.type == 's' || header.type == 'l';
	if (has_target != (header.target_bytes > 0) || memchr(target, '\0', header.target_bytes) != NULL)
		return refuse_entry("has a target that there is not");
	if (attributes.bytes > 0 && header.type != 'f' && header.type != 'd')
		return refuse_entry("cannot have attributes");
	if (++entries > max_entries)
		return refuse("it has more than %llu files", (unsigned long long)max_entries);
	return spend(ENTRY_BYTES);
}

static struct timespec modified(void)
{
	return (struct timespec){ .tv_sec = header.modified_s, .tv_nsec = header.modified_ns };
}

/* The mode comes after the owner, which clears set-id bits, and attributes after both: a new owner clears capabilities. */
static int describe(int fd)
{
	if (fchown(fd, header.uid, header.gid) != 0 || fchmod(fd, header.mode) != 0)
		return fail_entry("set the owner and the mode of");
	return write_attributes(fd, header.type == 'd' && (header.flags & FLAG_OPAQUE) != 0, &attributes, shown());
}

static bool is_zero(const char *data, size_t length)
{
	return length == 0 || (data[0] == '\0' && memcmp(data, data + 1, length - 1) == 0);
}

static int write_at(int fd, const char *data, size_t length, uint64_t at)
{
	if (is_zero(data, length))
		return 0;
	if (spend(length) != 0)
		return -1;
	while (length > 0) {
		ssize_t wrote = pwrite(fd, data, length, (off_t)at);
		if (wrote < 0 && errno != EINTR)
			return fail_entry("write");
		data += wrote > 0 ? wrote : 0;
		at += wrote > 0 ? (uint64_t)wrote : 0;
		length -= wrote > 0 ? (size_t)wrote : 0;
	}
	return 0;
}

/* Blocks of zeros become holes, as they may have been. */
static int write_bytes(int fd)
{
	const char *data;
	for (uint64_t at = 0; at < header.size;) {
		uint64_t left = header.size - at, block = HOLE_BYTES - at % HOLE_BYTES;
		ssize_t got = input_some(&data, left < block ? left : block);
		if (got < 0)
			return refuse("it ends in the middle");
		if (write_at(fd, data, (size_t)got, at) != 0)
			return -1;
		at += (uint64_t)got;
	}
	return ftruncate(fd, (off_t)header.size) == 0 ? 0 : fail_entry("write");
}

static int make_file(int parent, const char *name)
{
	if (header.size > INT64_MAX)
		return refuse_entry("has a size that there is not");
	int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_entry("make");
	struct timespec times[] = { modified(), modified() };
	int result = write_bytes(fd);
	if (result == 0)
		result = describe(fd);
	if (result == 0 && futimens(fd, times) != 0)
		result = fail_entry("set the time of");
	close(fd);
	return result;
}

static int make_directory(int parent, const char *name)
{
	if (mkdirat(parent, name, 0700) != 0)
		return fail_entry("make");
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail_entry("open");
	int result = describe(fd);
	close(fd);
	if (result != 0)
		return -1;
	if (directory_count == directory_room) {
		size_t room = directory_room == 0 ? 1024 : directory_room * 2;
		struct directory **grown = realloc(directories, room * sizeof *grown);
		if (grown == NULL)
			return errno = 0, fail("out of memory");
		directories = grown;
		directory_room = room;
	}
	struct directory *directory = malloc(sizeof *directory + header.path_bytes);
	if (directory == NULL)
		return errno = 0, fail("out of memory");
	directory->modified = modified();
	directory->path_bytes = header.path_bytes;
	memcpy(directory->path, path, header.path_bytes);
	directories[directory_count++] = directory;
	return 0;
}

/* Of what cannot be opened: a link, a fifo. */
static int describe_in(int parent, const char *name)
{
	struct timespec times[] = { modified(), modified() };
	if (fchownat(parent, name, header.uid, header.gid, AT_SYMLINK_NOFOLLOW) != 0 ||
		(header.type == 'p' && fchmodat(parent, name, header.mode, 0) != 0) ||
		utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) != 0)
		return fail_entry("set the owner and the time of");
	return 0;
}

static int make_symlink(int parent, const char *name)
{
	if (header.target_bytes > MAX_TARGET_BYTES)
		return refuse_entry("has a target that there is not");
	return symlinkat(target, parent, name) == 0 ? describe_in(parent, name) : fail_entry("make");
}

static int make_fifo(int parent, const char *name)
{
	return mkfifoat(parent, name, 0600) == 0 ? describe_in(parent, name) : fail_entry("make");
}

static int make_link(int parent, const char *name)
{
	struct stat status;
	char descriptor[32];
	int file = valid_path(target, header.target_bytes) ? open_below(root, target, header.target_bytes, O_PATH) : -1;
	if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
		if (file >= 0)
			close(file);
		return refuse_entry("is a link to no file of the layer");
	}
	snprintf(descriptor, sizeof descriptor, "/proc/self/fd/%d", file);
	int result = linkat(AT_FDCWD, descriptor, parent, name, AT_SYMLINK_FOLLOW) == 0 ? 0 : fail_entry("link");
	close(file);
	return result;
}

static int make_entry(void)
{
	const char *text;
	char name[MAX_NAME_BYTES + 1];
	int parent = parent_below(root, path, header.path_bytes, &text);
	if (parent < 0)
		return refuse_entry("is in no directory of the layer");
	size_t length = (size_t)(path + header.path_bytes - text);
	memcpy(name, text, length);
	name[length] = '\0';
	switch (header.type) {
	case 'f':
		return make_file(parent, name);
	case 'd':
		return make_directory(parent, name);
	case 's':
		return make_symlink(parent, name);
	case 'p':
		return make_fifo(parent, name);
	case 'l':
		return make_link(parent, name);
	case 'w':
		return mknodat(parent, name, S_IFCHR, makedev(0, 0)) == 0 ? 0 : fail_entry("make");
	default:
		return refuse_entry("is of no kind that there is");
	}
}

static int set_times(void)
{
	for (size_t i = 0; i < directory_count; i++) {
		const struct directory *directory = directories[i];
		const struct timespec times[] = { directory->modified, directory->modified };
		int fd = open_below(root, directory->path, directory->path_bytes, O_RDONLY | O_DIRECTORY);
		if (fd < 0 || futimens(fd, times) != 0)
			return fail("set the time of %s", printable(directory->path, directory->path_bytes));
		close(fd);
	}
	return 0;
}

int write_layer(const char *directory, uint64_t most_entries, uint64_t most_bytes)
{
	max_entries = most_entries;
	max_bytes = most_bytes;
	root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail("open the layer");
	int more;
	while ((more = next_record()) == 1)
		if (check_record() != 0 || make_entry() != 0)
			return -1;
	if (more < 0 || set_times() != 0)
		return -1;
	printf("ok %llu %llu\n", (unsigned long long)entries, (unsigned long long)bytes);
	return 0;
}
