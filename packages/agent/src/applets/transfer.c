/* put and get: files in and out of the sandbox, as a command's user, where there may be no shell. */
#include "applets.h"

static uint8_t buffer[64 << 10];

static bool write_all(int fd, const void *data, size_t length) {
  for (const uint8_t *at = data; length;) {
    ssize_t n = write(fd, at, length);
    if (n <= 0) return false;
    at += n, length -= (size_t)n;
  }
  return true;
}

int applet_put(int argc, char **argv) {
  (void)argc;
  const char *path = argv[0], *mode = argv[1];
  char target[PATH_BYTES_MAX + 1], temporary[PATH_BYTES_MAX + 32], *end;
  unsigned long bits = strtoul(mode, &end, 8);
  size_t length = strlen(path);
  ssize_t n;
  if (*end || !*mode || bits > 07777) return complain(1, mode, EINVAL);
  if (!length || length > PATH_BYTES_MAX || path[length - 1] == '/')
    return complain(1, path, length > PATH_BYTES_MAX ? ENAMETOOLONG : EISDIR);
  strcpy(target, path);
  for (char *at = target + 1; (at = strchr(at, '/')); *at++ = '/') {
    *at = 0;
    if (mkdir(target, 0755) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES) return complain(1, path, errno);
  }
  strcpy(temporary, target);
  char *name = strrchr(temporary, '/');
  strcpy(name ? name + 1 : temporary, ".bramble-XXXXXX");
  int fd = mkostemp(temporary, O_CLOEXEC);
  if (fd < 0) return complain(1, path, errno);
  while ((n = read(0, buffer, sizeof buffer)) != 0)
    if (n < 0 || !write_all(fd, buffer, (size_t)n)) break;
  if (n == 0 && fchmod(fd, (mode_t)bits) == 0 && close(fd) == 0 && rename(temporary, target) == 0) return 0;
  int error = errno;
  unlink(temporary);
  return complain(1, path, error);
}

int applet_get(int argc, char **argv) {
  (void)argc;
  const char *path = argv[0], *max = argv[1];
  char *end;
  unsigned long long limit = strtoull(max, &end, 10), sent = 0;
  struct stat stat;
  if (*end || !*max) return complain(1, max, EINVAL);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return complain(errno == ENOENT || errno == ENOTDIR ? 2 : errno == ENXIO ? 3 : 5, path, errno);
  if (fstat(fd, &stat) < 0) return complain(5, path, errno);
  if (!S_ISREG(stat.st_mode)) return complain(3, path, S_ISDIR(stat.st_mode) ? EISDIR : EINVAL);
  if ((unsigned long long)stat.st_size > limit) return dprintf(2, "%lld", (long long)stat.st_size), 4;
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) != 0;) {
    if (n < 0) return complain(5, path, errno);
    if ((sent += (unsigned long long)n) > limit) return 4; /* it grew while it was read */
    if (!write_all(1, buffer, (size_t)n)) return 5;
  }
  return 0;
}
