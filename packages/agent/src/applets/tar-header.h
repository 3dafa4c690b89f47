/* The header of tar: POSIX.1-2001 ustar and pax, with what GNU tar adds. */
#ifndef TAR_HEADER_H
#define TAR_HEADER_H
#include "applets.h"
#include <stddef.h>

enum { TAR_BLOCK = 512, TAR_TEXT_BYTES_MAX = 4 << 20 /* of a pax header or a GNU long name: a tree may be deep */ };

struct tar_header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, linkname[100], magic[6], version[2],
    uname[32], gname[32], devmajor[8], devminor[8], prefix[155], padding[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is a block");

static inline uint32_t tar_checksum(const struct tar_header *header) {
  const uint8_t *bytes = (const uint8_t *)header;
  uint32_t sum = 0;
  for (size_t i = 0; i < TAR_BLOCK; i++)
    sum += i >= offsetof(struct tar_header, checksum) && i < offsetof(struct tar_header, type) ? ' ' : bytes[i];
  return sum;
}
#endif
