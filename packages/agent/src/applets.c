/* put and get: files in and out of the sandbox, as a command's user, where there may be no shell. */
#include "agent.h"

#include <stdio.h>

static uint8_t buffer[64 << 10];

static bool write_all(int fd, const void *data, size_t length) {
  for (const uint8_t *at = data; length;) {
    ssize_t n = write(fd, at, length);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) at += n, length -= (size_t)n;
  }
  return true;
}

/* Says on standard error what failed; gives `code` back. */
int complain(int code, const char *what, int error) {
  const char *words[] = { what, ": ", strerrordesc_np(error), "\n" };
  for (int i = 0; i < 4; i++)
    if (words[i] && !write_all(2, words[i], strlen(words[i]))) break;
  return code;
}

static int put_failed(const char *path, int error) {
  bool place = error == EISDIR || error == ENOTDIR || error == ENOENT || error == ELOOP || error == ENAMETOOLONG;
  bool room = error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM;
  return complain(place ? 2 : room ? 4 : 5, path, error);
}

int applet_put(const char *path, const char *mode) {
  char target[PATH_BYTES_MAX + 1], temporary[PATH_BYTES_MAX + 32], *end;
  unsigned long bits = strtoul(mode, &end, 8);
  size_t length = strlen(path);
  ssize_t n;
  if (*end || !*mode || bits > 07777) return complain(1, mode, EINVAL);
  if (length > PATH_BYTES_MAX) return put_failed(path, ENAMETOOLONG);
  if (!length || path[length - 1] == '/') return put_failed(path, EISDIR);
  strcpy(target, path);
  for (char *at = target + 1; (at = strchr(at, '/')); *at++ = '/') {
    *at = 0;
    if (mkdir(target, 0755) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES) return put_failed(path, errno);
  }
  strcpy(temporary, target);
  char *name = strrchr(temporary, '/');
  strcpy(name ? name + 1 : temporary, ".bramble-XXXXXX");
  int fd = mkostemp(temporary, O_CLOEXEC);
  if (fd < 0) return put_failed(path, errno);
  while ((n = read(0, buffer, sizeof buffer)) != 0)
    if (n < 0 ? errno != EINTR : !write_all(fd, buffer, (size_t)n)) break;
  if (n == 0 && fchmod(fd, (mode_t)bits) == 0 && close(fd) == 0 && rename(temporary, target) == 0) return 0;
  int error = errno;
  unlink(temporary);
  return put_failed(path, error);
}

int applet_get(const char *path, const char *max) {
  char *end, digits[24], *at = digits + sizeof digits;
  unsigned long long limit = strtoull(max, &end, 10), sent = 0;
  struct stat stat;
  if (*end || !*max) return complain(1, max, EINVAL);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return complain(errno == ENOENT || errno == ENOTDIR ? 2 : errno == ENXIO ? 3 : 5, path, errno);
  if (fstat(fd, &stat) < 0) return complain(5, path, errno);
  if (!S_ISREG(stat.st_mode)) return complain(3, path, S_ISDIR(stat.st_mode) ? EISDIR : EINVAL);
  if ((unsigned long long)stat.st_size > limit) {
    for (unsigned long long rest = (unsigned long long)stat.st_size; rest; rest /= 10) *--at = (char)('0' + rest % 10);
    write_all(2, at, (size_t)(digits + sizeof digits - at));
    return 4;
  }
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) != 0;) {
    if (n < 0 && errno != EINTR) return complain(5, path, errno);
    sent += n > 0 ? (unsigned long long)n : 0;
    if (sent > limit) return 4; /* it grew while it was read */
    if (n > 0 && !write_all(1, buffer, (size_t)n)) return 5;
  }
  return 0;
}
