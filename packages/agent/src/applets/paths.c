/* Paths as the applets are given them, and removing what they name. */
#include "applets.h"
#include <dirent.h>

/* mkdir -p; an error of a part that is there, or cannot be made, shows itself at the next one. */
int make_directories(const char *path, mode_t mode) {
  char copy[PATH_BYTES_MAX + 1];
  if (strlen(path) > PATH_BYTES_MAX) return ENAMETOOLONG;
  strcpy(copy, path);
  for (char *at = copy + 1; *copy && (at = strchr(at, '/')); *at++ = '/') {
    *at = 0;
    if (mkdir(copy, 0755) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES) return errno;
  }
  return mkdir(copy, mode) < 0 ? errno : 0;
}

/* Opens the directory that the last part of a path is in, made with `make`, and copies that part; -1 with errno. */
int parent_of(int at, const char *path, char *name, bool make) {
  char copy[PATH_BYTES_MAX + 1];
  size_t length = strlen(path), begin;
  if (length > PATH_BYTES_MAX) return errno = ENAMETOOLONG, -1;
  if (!length) return errno = ENOENT, -1;
  strcpy(copy, path);
  while (length > 1 && copy[length - 1] == '/') copy[--length] = 0;
  for (begin = length; begin && copy[begin - 1] != '/';) begin--;
  if (length - begin > 255) return errno = ENAMETOOLONG, -1;
  strcpy(name, copy + begin);
  copy[begin] = 0;
  const char *parent = begin ? copy : ".";
  int fd = openat(at, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == EACCES) fd = openat(at, parent, O_PATH | O_DIRECTORY | O_CLOEXEC); /* is enough */
  if (fd >= 0 || !make || errno != ENOENT) return fd;
  while (begin > 1 && copy[begin - 1] == '/') copy[--begin] = 0;
  int error = make_directories(parent, 0755);
  if (error && error != EEXIST) return errno = error, -1;
  return openat(at, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int empty_tree(struct walk *walk) {
  walk->emptying = true;
  for (;;) {
    enum walked what = walk_next(walk);
    if (what == WALK_END) return 0;
    if (what == WALK_FAILED) return errno;
    int flags = what == WALK_LEFT ? AT_REMOVEDIR : 0;
    bool directory = !flags && walk->type == DT_DIR;
    if (!directory && (unlinkat(walk_fd(walk), walk->name, flags) == 0 || errno == ENOENT)) continue;
    if (!directory && (flags || (errno != EISDIR && errno != EPERM))) return errno;
    if (walk_enter(walk) || errno == ENOENT) continue;
    int error = errno; /* what cannot be read may be empty, or has become a file */
    int at = walk_fd(walk);
    if (unlinkat(at, walk->name, AT_REMOVEDIR) < 0 && unlinkat(at, walk->name, 0) < 0) return error;
  }
}

/* 0, or the error; nothing that a link leads to is touched. */
int remove_tree(int parent, const char *name) {
  struct walk walk;
  struct stat stat, root;
  if (fstatat(parent, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  if (!S_ISDIR(stat.st_mode)) return unlinkat(parent, name, 0) < 0 ? errno : 0;
  if (fstatat(AT_FDCWD, "/", &root, 0) == 0 && root.st_dev == stat.st_dev && root.st_ino == stat.st_ino) return EBUSY;
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0) return 0;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = walk_begin(&walk, fd) ? empty_tree(&walk) : errno;
  walk_end(&walk);
  return error ? error : unlinkat(parent, name, AT_REMOVEDIR) < 0 ? errno : 0;
}
