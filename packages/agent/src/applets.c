/* put and get: files in and out of the sandbox, as a command's user, where there may be no shell. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 64 << 10 };

static uint8_t buffer[COPY_BYTES];

static int complain(int code, const char *what, int error)
{
  const char *words[] = { what, ": ", strerrordesc_np(error), "\n" };
  for (int i = 0; i < 4; i++)
    if (words[i] && write(2, words[i], strlen(words[i])) < 0) break;
  return code;
}

static bool write_all(int fd, const uint8_t *at, size_t length)
{
  while (length) {
    ssize_t n = write(fd, at, length);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) at += n, length -= (size_t)n;
  }
  return true;
}

/* Makes the folders above the last name. */
static bool make_parents(char *path)
{
  for (char *at = path + 1; (at = strchr(at, '/')); at++) {
    *at = 0;
    bool made = mkdir(path, 0755) == 0 || errno == EEXIST || errno == EROFS || errno == EACCES;
    *at = '/';
    if (!made) return false;
  }
  return true;
}

static int put_code(int error)
{
  switch (error) {
  case EISDIR: case ENOTDIR: case ENOENT: case ELOOP: case ENAMETOOLONG: case EINVAL: return 2;
  case ENOSPC: case EDQUOT: case EFBIG: case ENOMEM: return 4;
  default: return 5;
  }
}

int applet_put(const char *path, const char *mode)
{
  char target[PATH_BYTES_MAX + 1], temporary[PATH_BYTES_MAX + 32], *end;
  unsigned long bits = strtoul(mode, &end, 8);
  size_t length = strlen(path);
  if (*end || !*mode || bits > 07777) return complain(1, mode, EINVAL);
  if (!length || length > PATH_BYTES_MAX || path[length - 1] == '/') return complain(2, path, length > PATH_BYTES_MAX ? ENAMETOOLONG : EISDIR);
  strcpy(target, path);
  umask(022);
  if (!make_parents(target)) return complain(put_code(errno), path, errno);
  char *name = strrchr(target, '/');
  size_t folder = name ? (size_t)(name - target) + 1 : 0;
  uint8_t random[8];
  if (getrandom(random, sizeof random, 0) != sizeof random) return complain(5, path, errno);
  memcpy(temporary, target, folder);
  strcpy(temporary + folder, ".bramble-");
  for (int i = 0; i < 8; i++) {
    temporary[folder + 9 + 2 * (size_t)i] = "0123456789abcdef"[random[i] >> 4];
    temporary[folder + 10 + 2 * (size_t)i] = "0123456789abcdef"[random[i] & 15];
  }
  temporary[folder + 25] = 0;
  int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return complain(put_code(errno), path, errno);
  ssize_t n;
  while ((n = read(0, buffer, sizeof buffer)) != 0)
    if (n < 0 ? errno != EINTR : !write_all(fd, buffer, (size_t)n)) break;
  if (n == 0 && fchmod(fd, (mode_t)bits) == 0 && close(fd) == 0 && rename(temporary, target) == 0) return 0;
  int error = errno;
  unlink(temporary);
  return complain(put_code(error), path, error);
}

int applet_get(const char *path, const char *max)
{
  char *end;
  unsigned long long limit = strtoull(max, &end, 10);
  if (*end || !*max) return complain(1, max, EINVAL);
  struct stat stat;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    int code = errno == ENOENT || errno == ENOTDIR ? 2 : errno == ENXIO ? 3 : 5;
    return complain(code, path, errno);
  }
  if (fstat(fd, &stat) < 0) return complain(5, path, errno);
  if (!S_ISREG(stat.st_mode)) return complain(3, path, S_ISDIR(stat.st_mode) ? EISDIR : EINVAL);
  if ((unsigned long long)stat.st_size > limit) {
    char digits[24], *at = digits + sizeof digits;
    *--at = '\n';
    for (unsigned long long rest = (unsigned long long)stat.st_size; rest; rest /= 10) *--at = (char)('0' + rest % 10);
    write_all(2, (uint8_t *)at, (size_t)(digits + sizeof digits - at));
    return 4;
  }
  unsigned long long sent = 0;
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n == 0) return 0;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return complain(5, path, errno);
    sent += (unsigned long long)n;
    if (sent > limit) return 4; /* it grew while it was read */
    if (!write_all(1, buffer, (size_t)n)) return 5;
  }
}
