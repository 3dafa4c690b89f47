/* The files of a layer: walked, read and written, below one directory and through no link. README.md has the protocol.
 * The peer is the node, which is trusted; what is in the directory was written by sandboxes, and what is to be written may
 * come from anywhere. */
#pragma once

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define MAX_PATH_BYTES 8191 /* longer than what open(2) takes: a path is walked in parts */
#define MAX_NAME_BYTES 255
#define MAX_TARGET_BYTES 4095
#define MAX_XATTRS_BYTES (1024 * 1024) /* of one file, names and values */
#define MAX_READ_BYTES (1024 * 1024)

/* What a record begins with, in the byte order of this machine. Then: path, target, attributes. */
struct header {
	uint32_t bytes; /* of the whole record */
	uint8_t type; /* f d s p l w, see README.md; . the end, ! a failure with its text as path */
	uint8_t flags;
	uint16_t xattrs;
	uint32_t mode, uid, gid;
	uint32_t modified_ns;
	int64_t modified_s;
	uint64_t size;
	uint64_t inode, generation, transaction;
	int64_t changed_s;
	uint32_t changed_ns;
	uint32_t path_bytes, target_bytes;
	uint32_t reserved;
};
_Static_assert(sizeof(struct header) == 88, "layer-records.ts knows the header by its bytes");

#define FLAG_OPAQUE 1
#define FLAG_TRANSACTION 2 /* generation and transaction are known */

/* Before the name of an attribute. */
struct xattr_header {
	uint32_t name_bytes, value_bytes;
};

/* output.c: what went wrong, as text that can be printed. The first failure wins. Return -1. */
extern char failure[1024];
/* `refused`: what came in is at fault. `full`: there is no room. Otherwise the host is. */
extern enum fault { HOST, REFUSED, FULL } fault;
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *printable(const char *bytes, size_t length);

int output(const void *data, size_t bytes);
int output_flush(void);

/* input.c: 1 when all of it came, 0 at the end of the input, -1 when that is in the middle. */
int input(void *data, size_t bytes);
bool input_waits(void);
/* Up to `most` bytes without copying them. */
ssize_t input_some(const char **data, size_t most);

/* below.c: paths below a directory, through no link. */
bool valid_path(const char *path, size_t bytes);
int open_below(int root, const char *path, size_t bytes, int flags);
/* The directory that a path is in, and where its name begins. It stays open until the next call. */
int parent_below(int root, const char *path, size_t bytes, const char **name);

int walk(const char *directory, uint64_t max_entries, bool plain);
int serve_reads(const char *directory);
int write_layer(const char *directory, uint64_t max_entries, uint64_t max_bytes);

/* attributes.c */
#define MAX_ATTRIBUTE_BYTES 65536 /* the kernel's own bound (XATTR_SIZE_MAX) */
struct attributes {
	bool opaque, whiteout;
	uint16_t count;
	size_t bytes;
	char data[MAX_XATTRS_BYTES];
};
/* `plain`: overlayfs has no say. */
int read_attributes(int fd, bool plain, struct attributes *found, const char *path);
/* As they stand in a record. */
int write_attributes(int fd, bool opaque, const struct attributes *wanted, const char *path);
