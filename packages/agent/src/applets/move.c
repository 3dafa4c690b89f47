/* move: a rename; between file systems a copy beside the goal, a rename there, and the removal of what was copied. */
#include "applets.h"
#include <dirent.h>
#include <sys/sysmacros.h>

static uint8_t block[BLOCK_BYTES];

static struct attributes attributes_of(const struct stat *stat) {
  return (struct attributes){ .mode = stat->st_mode & 07777, .uid = stat->st_uid, .gid = stat->st_gid,
                              .modified = stat->st_mtim, .owner = geteuid() == 0 };
}

static int copy_content(int from, int to) {
  off_t at = 0;
  for (size_t have = 0;;) {
    ssize_t n = read(from, block + have, sizeof block - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    have += (size_t)n;
    if (n && have < sizeof block) continue;
    if (!write_sparse(to, block, have, at)) return errno;
    at += (off_t)have;
    if (!n) return ftruncate(to, at) < 0 ? errno : 0;
    have = 0;
  }
}

static int copy_file(int from_dir, const char *from, int dir, const char *name, const struct attributes *attributes) {
  int in = openat(from_dir, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (in < 0) return errno;
  int out = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  int error = out < 0 ? errno : copy_content(in, out);
  if (!error && !attributes_apply(out, attributes)) error = errno;
  close(in);
  if (out >= 0 && close(out) < 0 && !error) error = errno;
  return error;
}

/* Everything but a directory. A socket stays where its server is. */
static int copy_one(int from_dir, const char *from, int dir, const char *name, const struct stat *stat) {
  struct attributes attributes = attributes_of(stat);
  char target[PATH_BYTES_MAX + 1];
  if (S_ISREG(stat->st_mode)) return copy_file(from_dir, from, dir, name, &attributes);
  if (S_ISLNK(stat->st_mode)) {
    ssize_t n = readlinkat(from_dir, from, target, sizeof target - 1);
    if (n < 0) return errno;
    target[n] = 0;
    if (symlinkat(target, dir, name) < 0) return errno;
  } else if (S_ISSOCK(stat->st_mode)) return 0;
  else if (mknodat(dir, name, stat->st_mode, stat->st_rdev) < 0) return errno;
  return attributes_apply_at(dir, name, &attributes) ? 0 : errno;
}

static int copy_entries(struct walk *walk, struct place *place) {
  struct stat stat;
  char *path = NULL;
  int dir, error = 0;
  for (enum walked what; !error && (what = walk_next(walk)) != WALK_END;) {
    if (what == WALK_FAILED) error = errno;
    if (error || what == WALK_LEFT) continue;
    free(path);
    path = strdup(walk->path);
    char *name = path ? place_find(place, path, &dir) : NULL;
    if (!name || fstatat(walk_fd(walk), walk->name, &stat, AT_SYMLINK_NOFOLLOW) < 0) error = errno;
    else if (!S_ISDIR(stat.st_mode)) error = copy_one(walk_fd(walk), walk->name, dir, name, &stat);
    else {
      struct attributes attributes = attributes_of(&stat);
      if (!place_directory(place, name, &attributes) || !walk_enter(walk)) error = errno;
    }
  }
  free(path);
  return error;
}

static int copy_tree(int from_dir, const char *from, int dir, const char *name, const struct stat *stat) {
  struct attributes attributes = attributes_of(stat);
  struct walk walk = { 0 };
  struct place place;
  int source = openat(from_dir, from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (source < 0 || mkdirat(dir, name, 0700) < 0) return errno;
  int root = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root < 0 || !place_begin(&place, root)) return errno;
  int error = walk_begin(&walk, source) ? copy_entries(&walk, &place) : errno;
  walk_end(&walk);
  root = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (!place_end(&place) && !error) error = errno;
  if (!error && (root < 0 || !attributes_apply(root, &attributes))) error = errno;
  return error;
}

static int move_over(int from_dir, const char *from, int dir, const char *name) {
  struct stat stat, at_goal;
  char temporary[32];
  if (fstatat(from_dir, from, &stat, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  /* What a rename would refuse is refused before the copy. */
  if (fstatat(dir, name, &at_goal, AT_SYMLINK_NOFOLLOW) == 0) {
    if (S_ISDIR(stat.st_mode) != S_ISDIR(at_goal.st_mode)) return S_ISDIR(stat.st_mode) ? ENOTDIR : EISDIR;
  }
  temporary_name(temporary);
  int guard = guard_start(dir, temporary);
  if (guard < 0) return errno;
  int error = S_ISDIR(stat.st_mode) ? copy_tree(from_dir, from, dir, temporary, &stat)
                                    : copy_one(from_dir, from, dir, temporary, &stat);
  if (!error && renameat(dir, temporary, dir, name) < 0) error = errno;
  if (!error) return remove_tree(from_dir, from);
  remove_tree(dir, temporary);
  return error;
}

/* A directory that would go into itself: a rename refuses that, a copy would go on for ever. */
static bool is_inside(int dir, int from_dir, const char *from) {
  struct stat wanted, stat, above;
  if (fstatat(from_dir, from, &wanted, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(wanted.st_mode)) return false;
  int fd = fcntl(dir, F_DUPFD_CLOEXEC, 3);
  for (bool inside = false;;) {
    if (fd < 0 || fstat(fd, &stat) < 0) return inside;
    inside = stat.st_dev == wanted.st_dev && stat.st_ino == wanted.st_ino;
    int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    close(fd);
    if (inside || up < 0 || fstat(up, &above) < 0 || (above.st_dev == stat.st_dev && above.st_ino == stat.st_ino))
      return inside;
    fd = up;
  }
}

/* move FROM TO */
int applet_move(int argc, char **argv) {
  char from[256], to[256];
  (void)argc;
  int from_dir = parent_of(AT_FDCWD, argv[0], from, false);
  if (from_dir < 0) return no(argv[0], errno);
  struct stat stat;
  if (fstatat(from_dir, from, &stat, AT_SYMLINK_NOFOLLOW) < 0) return no(argv[0], *from ? errno : EBUSY);
  int dir = parent_of(AT_FDCWD, argv[1], to, false);
  if (dir < 0) return no(argv[1], errno), NO;
  if (renameat(from_dir, from, dir, to) == 0) return DONE;
  int error = errno;
  if (error == EXDEV) error = is_inside(dir, from_dir, from) ? EINVAL : move_over(from_dir, from, dir, to);
  return error ? no(argv[0], error), NO : DONE;
}
