/* Extended attributes of a file of a layer: those that belong to who uses the sandbox, and what overlayfs says by its own
 * (Documentation/filesystems/overlayfs.rst). */
#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#define OVERLAY "trusted.overlay."

static int overlay_attribute(int fd, const char *name, struct attributes *found, const char *path)
{
	char value[8] = "";
	const char *word = name + strlen(OVERLAY);
	if (strcmp(word, "opaque") == 0)
		found->opaque = fgetxattr(fd, name, value, sizeof value) == 1 && value[0] == 'y';
	else if (strcmp(word, "whiteout") == 0)
		found->whiteout = true;
	/* The bytes, or the name, are elsewhere: the layer does not tell by itself what is there. */
	else if (strcmp(word, "metacopy") == 0 || strcmp(word, "redirect") == 0)
		return refuse("%s is only half in the layer (overlayfs %s)", path, word);
	return 0;
}

static int keep(int fd, const char *name, struct attributes *found, const char *path)
{
	struct xattr_header header = { .name_bytes = (uint32_t)strlen(name) };
	char *at = found->data + found->bytes;
	size_t room = sizeof found->data - found->bytes;
	if (room < sizeof header + header.name_bytes + MAX_ATTRIBUTE_BYTES)
		return refuse("%s has too many bytes of attributes", path);
	ssize_t bytes = fgetxattr(fd, name, at + sizeof header + header.name_bytes, MAX_ATTRIBUTE_BYTES);
	if (bytes < 0)
		return errno == ENODATA ? 0 : fail("an attribute of %s", path);
	header.value_bytes = (uint32_t)bytes;
	memcpy(at, &header, sizeof header);
	memcpy(at + sizeof header, name, header.name_bytes);
	found->bytes += sizeof header + header.name_bytes + header.value_bytes;
	found->count++;
	return 0;
}

/* Whose place in a layer is not the host's, or overlayfs's. */
static bool belongs_to_users(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0;
}

int read_attributes(int fd, bool plain, struct attributes *found, const char *path)
{
	static char names[65536];
	found->opaque = found->whiteout = false;
	found->count = 0;
	found->bytes = 0;
	ssize_t bytes = flistxattr(fd, names, sizeof names);
	if (bytes < 0)
		return errno == ENOTSUP ? 0 : fail("the attributes of %s", path);
	for (const char *name = names; name < names + bytes; name += strlen(name) + 1) {
		int result = 0;
		if (!plain && strncmp(name, OVERLAY, strlen(OVERLAY)) == 0)
			result = overlay_attribute(fd, name, found, path);
		else if (belongs_to_users(name))
			result = keep(fd, name, found, path);
		if (result != 0)
			return -1;
	}
	return 0;
}

int write_attributes(int fd, bool opaque, const struct attributes *wanted, const char *path)
{
	const char *at = wanted->data, *end = wanted->data + wanted->bytes;
	char name[MAX_NAME_BYTES + 1];
	if (opaque && fsetxattr(fd, OVERLAY "opaque", "y", 1, 0) != 0)
		return fail("make %s opaque", path);
	for (int i = 0; i < wanted->count; i++) {
		struct xattr_header header;
		if ((size_t)(end - at) < sizeof header)
			return refuse("the attributes of %s are not understood", path);
		memcpy(&header, at, sizeof header);
		at += sizeof header;
		if (header.name_bytes == 0 || header.name_bytes > MAX_NAME_BYTES || header.value_bytes > MAX_ATTRIBUTE_BYTES ||
			(size_t)(end - at) < (size_t)header.name_bytes + header.value_bytes ||
			memchr(at, '\0', header.name_bytes) != NULL)
			return refuse("the attributes of %s are not understood", path);
		memcpy(name, at, header.name_bytes);
		name[header.name_bytes] = '\0';
		if (!belongs_to_users(name))
			return refuse("%s has the attribute %s, which is the host's to set", path, printable(name, header.name_bytes));
		if (fsetxattr(fd, name, at + header.name_bytes, header.value_bytes, 0) != 0)
			return errno == EINVAL ? refuse("an attribute of %s has no meaning", path) : fail("set the attributes of %s", path);
		at += header.name_bytes + header.value_bytes;
	}
	return at == end ? 0 : refuse("the attributes of %s are not understood", path);
}
