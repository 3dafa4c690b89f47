/* Everything below a directory, in the order of the bytes of whole paths. "a.b" comes between "a" and "a/c" ('.' < '/'), so a
 * directory stands in the list of its parent twice: as itself, and with a slash for what is in it. */
#define _GNU_SOURCE
#include "layers.h"

#include <dirent.h>
#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAX_OPEN 64
/* Years before -1000 and after 5000 have no place in a tree's decimal nanoseconds. */
#define MAX_SECONDS 99999999999LL

struct name {
	uint32_t at;
	uint16_t bytes;
	uint8_t type;
	bool below;
};

struct frame {
	int fd; /* -1: closed, since many are open below it */
	dev_t device;
	ino_t inode;
	size_t path_bytes; /* of the path before the names, with its slash */
	char *bytes;
	size_t used, room;
	struct name *names;
	size_t count, slots, next;
};

/* The first name of each file that has several. */
struct linked {
	ino_t inode;
	uint32_t path_bytes;
	char path[];
};

static struct frame *frames;
static size_t depth, frames_room;
static struct linked **linked;
static size_t linked_count, linked_room;
static char path[MAX_PATH_BYTES + 1];
static uint64_t listed, max_listed, entries;
static bool plain, transactions;
static struct attributes found;

static const char *shown(size_t length) { return printable(path, length); }

static int no_memory(void) { return errno = 0, fail("out of memory"); }

/* btrfs knows by which transaction a file was last changed, which a clock cannot tell. Of a subvolume that is never written,
 * since others keep what is new in memory for a while. */
static bool has_transactions(int fd)
{
	struct statfs system;
	struct btrfs_ioctl_get_subvol_info_args subvolume = { 0 };
	return fstatfs(fd, &system) == 0 && system.f_type == BTRFS_SUPER_MAGIC &&
		/* 1 is an answer, too. */
		ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &subvolume) >= 0 && (subvolume.flags & BTRFS_ROOT_SUBVOL_RDONLY) != 0;
}

static void find_transaction(int fd, struct header *header)
{
	struct {
		struct btrfs_ioctl_search_args_v2 search;
		char room[512];
	} arguments = { .search = { .buf_size = 512, .key = { .min_objectid = header->inode, .max_objectid = header->inode,
		.min_type = BTRFS_INODE_ITEM_KEY, .max_type = BTRFS_INODE_ITEM_KEY, .max_offset = UINT64_MAX,
		.max_transid = UINT64_MAX, .nr_items = 1 } } };
	struct btrfs_ioctl_search_header item;
	struct btrfs_inode_item inode;
	if (ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, &arguments) != 0 || arguments.search.key.nr_items != 1)
		return;
	memcpy(&item, arguments.search.buf, sizeof item);
	if (item.objectid != header->inode || item.type != BTRFS_INODE_ITEM_KEY || item.len < sizeof inode)
		return;
	memcpy(&inode, (char *)arguments.search.buf + sizeof item, sizeof inode);
	header->generation = inode.generation;
	header->transaction = inode.transid;
	header->flags |= FLAG_TRANSACTION;
}

static int put(struct header *header, size_t path_bytes, const char *target, size_t target_bytes, bool with_attributes)
{
	header->path_bytes = (uint32_t)path_bytes;
	header->target_bytes = (uint32_t)target_bytes;
	header->xattrs = with_attributes ? found.count : 0;
	header->bytes = (uint32_t)(sizeof *header + path_bytes + target_bytes + (with_attributes ? found.bytes : 0));
	entries++;
	return output(header, sizeof *header) != 0 || output(path, path_bytes) != 0 || output(target, target_bytes) != 0 ||
		(with_attributes && output(found.data, found.bytes) != 0) ? -1 : 0;
}

static size_t slot_of(ino_t inode)
{
	size_t slot = (size_t)(inode * 0x9e3779b97f4a7c15ULL >> 20) & (linked_room - 1);
	while (linked[slot] != NULL && linked[slot]->inode != inode)
		slot = (slot + 1) & (linked_room - 1);
	return slot;
}

static int grow_linked(void)
{
	size_t room = linked_room, wanted = room == 0 ? 1024 : room * 2;
	struct linked **before = linked, **grown = calloc(wanted, sizeof *grown);
	if (grown == NULL)
		return no_memory();
	linked = grown;
	linked_room = wanted;
	for (size_t i = 0; i < room; i++)
		if (before[i] != NULL)
			linked[slot_of(before[i]->inode)] = before[i];
	free(before);
	return 0;
}

/* 1: an earlier name was found and said, 0: it is the first, and remembered. */
static int put_link(ino_t inode, size_t path_bytes)
{
	if (linked_count * 2 >= linked_room && grow_linked() != 0)
		return -1;
	size_t slot = slot_of(inode);
	if (linked[slot] != NULL) {
		struct header header = { .type = 'l' };
		return put(&header, path_bytes, linked[slot]->path, linked[slot]->path_bytes, false) != 0 ? -1 : 1;
	}
	struct linked *file = malloc(sizeof *file + path_bytes);
	if (file == NULL)
		return no_memory();
	file->inode = inode;
	file->path_bytes = (uint32_t)path_bytes;
	memcpy(file->path, path, path_bytes);
	linked[slot] = file;
	linked_count++;
	return 0;
}

static void describe(struct header *header, const struct stat *status)
{
	int64_t seconds = status->st_mtim.tv_sec;
	header->mode = status->st_mode & 07777;
	header->uid = status->st_uid;
	header->gid = status->st_gid;
	header->modified_s = seconds > MAX_SECONDS - 1 ? MAX_SECONDS - 1 : seconds < 1 - MAX_SECONDS ? 1 - MAX_SECONDS : seconds;
	header->modified_ns = (uint32_t)status->st_mtim.tv_nsec;
	header->inode = status->st_ino;
	header->changed_s = status->st_ctim.tv_sec;
	header->changed_ns = (uint32_t)status->st_ctim.tv_nsec;
}

static int put_deleted(size_t path_bytes)
{
	struct header header = { .type = 'w' };
	return plain ? 0 : put(&header, path_bytes, "", 0, false);
}

static int put_file(int fd, const struct stat *status, size_t path_bytes)
{
	struct header header = { .type = 'f', .size = (uint64_t)status->st_size };
	if (status->st_nlink > 1) {
		int known = put_link(status->st_ino, path_bytes);
		if (known != 0)
			return known < 0 ? -1 : 0;
	}
	if (read_attributes(fd, plain, &found, shown(path_bytes)) != 0)
		return -1;
	if (found.whiteout && status->st_size == 0)
		return put_deleted(path_bytes);
	describe(&header, status);
	if (transactions)
		find_transaction(fd, &header);
	return put(&header, path_bytes, "", 0, true);
}

static int put_directory(int fd, const struct stat *status, size_t path_bytes)
{
	struct header header = { .type = 'd' };
	if (read_attributes(fd, plain, &found, shown(path_bytes)) != 0)
		return -1;
	describe(&header, status);
	header.flags = found.opaque ? FLAG_OPAQUE : 0;
	return put(&header, path_bytes, "", 0, true);
}

static int put_other(int parent, const char *name, size_t path_bytes)
{
	struct stat status;
	struct header header = { .type = 'p' };
	char target[MAX_TARGET_BYTES + 1];
	ssize_t length = 0;
	if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
		return fail("stat %s", shown(path_bytes));
	if (S_ISLNK(status.st_mode)) {
		header.type = 's';
		length = readlinkat(parent, name, target, sizeof target);
		if (length <= 0 || length > MAX_TARGET_BYTES)
			return fail("readlink %s", shown(path_bytes));
	} else if (!S_ISFIFO(status.st_mode)) {
		/* Overlayfs has device 0:0 for what is not there any more. A socket, or any other device, is nothing without who
		 * serves it, but hides what the image has in its place. */
		return put_deleted(path_bytes);
	}
	describe(&header, &status);
	return put(&header, path_bytes, target, (size_t)length, false);
}

static int put_entry(int parent, const struct name *name, const char *text, size_t path_bytes)
{
	struct stat status;
	if (name->type != DT_REG && name->type != DT_DIR)
		return put_other(parent, text, path_bytes);
	int fd = openat(parent, text, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (name->type == DT_DIR ? O_DIRECTORY : 0));
	if (fd < 0 || fstat(fd, &status) != 0)
		return fail("open %s", shown(path_bytes));
	int result = S_ISDIR(status.st_mode) ? put_directory(fd, &status, path_bytes) : put_file(fd, &status, path_bytes);
	close(fd);
	return result;
}

static int next_of(const struct name *name, size_t at, const char *text)
{
	return name->bytes > at ? (unsigned char)text[name->at + at] : name->below ? '/' : -1;
}

static int by_bytes(const void *left, const void *right, void *text)
{
	const struct name *a = left, *b = right;
	size_t common = a->bytes < b->bytes ? a->bytes : b->bytes;
	int order = memcmp((char *)text + a->at, (char *)text + b->at, common);
	return order != 0 ? order : next_of(a, common, text) - next_of(b, common, text);
}

static int add_name(struct frame *frame, const char *name, uint8_t type, bool below)
{
	size_t length = strlen(name);
	if (frame->count == frame->slots) {
		size_t slots = frame->slots == 0 ? 16 : frame->slots * 2;
		struct name *names = realloc(frame->names, slots * sizeof *names);
		if (names == NULL)
			return no_memory();
		frame->names = names;
		frame->slots = slots;
	}
	if (!below && frame->used + length + 1 > frame->room) {
		size_t room = frame->room == 0 ? 512 : frame->room * 2;
		char *text = realloc(frame->bytes, room);
		if (text == NULL)
			return no_memory();
		frame->bytes = text;
		frame->room = room;
	}
	if (!below) {
		memcpy(frame->bytes + frame->used, name, length + 1);
		frame->used += length + 1;
	}
	frame->names[frame->count++] = (struct name){ .at = (uint32_t)(frame->used - length - 1), .bytes = (uint16_t)length,
		.type = type, .below = below };
	return 0;
}

static uint8_t type_of(int fd, const struct dirent *entry)
{
	struct stat status;
	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type;
	return fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 ? IFTODT(status.st_mode) : DT_UNKNOWN;
}

static int list(struct frame *frame)
{
	int copy = fcntl(frame->fd, F_DUPFD_CLOEXEC, 0);
	DIR *directory = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	int result = 0;
	if (directory == NULL)
		return fail("open a directory");
	while (result == 0 && (errno = 0, entry = readdir(directory)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		uint8_t type = type_of(frame->fd, entry);
		if (++listed > max_listed)
			result = refuse("there are more than %llu files", (unsigned long long)max_listed);
		else if (add_name(frame, entry->d_name, type, false) != 0 || (type == DT_DIR && add_name(frame, entry->d_name, type, true) != 0))
			result = -1;
	}
	if (result == 0 && errno != 0)
		result = fail("read a directory");
	closedir(directory);
	if (result == 0 && frame->count > 0)
		qsort_r(frame->names, frame->count, sizeof *frame->names, by_bytes, frame->bytes);
	return result;
}

/* Takes `fd`. */
static int enter(int fd, size_t path_bytes)
{
	struct stat status;
	if (depth == frames_room) {
		size_t room = frames_room == 0 ? 64 : frames_room * 2;
		struct frame *grown = realloc(frames, room * sizeof *frames);
		if (grown == NULL)
			return no_memory();
		frames = grown;
		frames_room = room;
	}
	if (fstat(fd, &status) != 0)
		return fail("stat a directory");
	/* Another file system that is mounted there is not of the layer. */
	if (depth > 0 && status.st_dev != frames[0].device)
		return close(fd);
	struct frame *frame = &frames[depth++];
	*frame = (struct frame){ .fd = fd, .device = status.st_dev, .inode = status.st_ino, .path_bytes = path_bytes };
	if (depth > MAX_OPEN) {
		close(frames[depth - MAX_OPEN - 1].fd);
		frames[depth - MAX_OPEN - 1].fd = -1;
	}
	return list(frame);
}

static int leave(void)
{
	struct stat status;
	struct frame *frame = &frames[--depth], *parent = frame - 1;
	int result = 0;
	if (depth > 0 && parent->fd < 0) {
		parent->fd = openat(frame->fd, "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (parent->fd < 0 || fstat(parent->fd, &status) != 0 || status.st_ino != parent->inode ||
			status.st_dev != parent->device)
			result = (errno = 0, fail("a directory moved meanwhile"));
	}
	close(frame->fd);
	free(frame->bytes);
	free(frame->names);
	return result;
}

static int step(void)
{
	struct frame *frame = &frames[depth - 1];
	if (frame->next == frame->count)
		return leave();
	const struct name name = frame->names[frame->next++];
	const char *text = frame->bytes + name.at;
	size_t length = frame->path_bytes + name.bytes;
	if (length + 1 > MAX_PATH_BYTES)
		return refuse("a path is longer than %d bytes", MAX_PATH_BYTES);
	memcpy(path + frame->path_bytes, text, name.bytes);
	if (!name.below)
		return put_entry(frame->fd, &name, text, length);
	path[length] = '/';
	int fd = openat(frame->fd, text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? fail("open %s", shown(length)) : enter(fd, length + 1);
}

int walk(const char *directory, uint64_t max_entries, bool is_plain)
{
	plain = is_plain;
	max_listed = max_entries;
	int root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = root < 0 ? fail("open the layer") : 0;
	if (result == 0) {
		transactions = !plain && has_transactions(root);
		result = enter(root, 0);
	}
	while (result == 0 && depth > 0)
		result = step();
	struct header last = { .type = result == 0 ? '.' : '!', .size = result == 0 ? entries : 0, .flags = fault == REFUSED };
	size_t text = result == 0 ? 0 : strlen(failure);
	last.path_bytes = (uint32_t)text;
	last.bytes = (uint32_t)(sizeof last + text);
	if (output(&last, sizeof last) != 0 || output(failure, text) != 0 || output_flush() != 0)
		return -1;
	return result;
}
