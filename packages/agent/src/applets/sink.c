/*
 * A file that appears at its name whole or not at all. It has no name while it is written (O_TMPFILE), so nothing is
 * left however this process ends; where the file system cannot do that, a second process removes the temporary name once
 * this one is gone. A kill reaches the process group, so whatever must not be interrupted runs outside of it.
 */
#include "applets.h"
#include <sys/random.h>

void temporary_name(char *name) {
  uint8_t random[8] = { 0 };
  if (getrandom(random, sizeof random, GRND_NONBLOCK) < 0) put32(random, (uint32_t)getpid());
  strcpy(name, ".bramble-");
  for (size_t i = 0; i < sizeof random; i++) sprintf(name + 9 + 2 * i, "%02x", random[i]);
}

/* Removes `name` when this process has ended, if it is still there. Gives what must stay open as long, or -1. */
int guard_start(int dir, const char *name) {
  int ends[2];
  char byte;
  if (pipe2(ends, O_CLOEXEC) < 0) return -1;
  pid_t pid = fork();
  if (pid == 0) {
    setsid();
    for (int fd = 0; fd < 3; fd++) close(fd);
    close(ends[1]);
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR);
    remove_tree(dir, name);
    _exit(0);
  }
  close(ends[0]);
  if (pid < 0) return close(ends[1]), -1;
  return ends[1];
}

/* In the directory `dir`, which stays the caller's. */
bool sink_open(struct sink *sink, int dir) {
  *sink = (struct sink){ .dir = dir, .guard = -1 };
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
  bool nameable = access(path, F_OK) == 0;
  sink->fd = nameable ? openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
  if (sink->fd >= 0) return true;
  if (nameable && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL) return false;
  temporary_name(sink->temporary);
  sink->guard = guard_start(dir, sink->temporary);
  if (sink->guard < 0) return false;
  sink->fd = openat(dir, sink->temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return sink->fd >= 0;
}

static int give_name(const struct sink *sink, const char *name) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", sink->fd);
  return linkat(AT_FDCWD, path, sink->dir, name, AT_SYMLINK_FOLLOW) < 0 ? errno : 0;
}

/* A rename needs a name to begin with. A kill between the two steps would leave it: they are another session's. */
static int replace(const struct sink *sink, const char *name) {
  int status;
  pid_t pid = fork();
  if (pid < 0) return errno;
  if (pid == 0) {
    char temporary[32];
    setsid();
    temporary_name(temporary);
    int error = give_name(sink, temporary);
    if (!error && renameat(sink->dir, temporary, sink->dir, name) < 0) {
      error = errno;
      unlinkat(sink->dir, temporary, 0);
    }
    _exit(error > 255 ? EIO : error);
  }
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return errno;
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

/* `replace_it`: something may have the name. */
bool sink_commit(struct sink *sink, const char *name, bool replace_it) {
  int error = 0;
  if (sink->temporary[0]) error = renameat(sink->dir, sink->temporary, sink->dir, name) < 0 ? errno : 0;
  else {
    error = replace_it ? EEXIST : give_name(sink, name);
    if (error == EEXIST) error = replace(sink, name);
  }
  if (!error) sink->temporary[0] = 0;
  return errno = error, !error;
}

void sink_drop(struct sink *sink) {
  int error = errno;
  if (sink->temporary[0]) unlinkat(sink->dir, sink->temporary, 0);
  if (sink->fd >= 0) close(sink->fd);
  if (sink->guard >= 0) close(sink->guard);
  errno = error;
}
