/* What is where: stat, list, mkdir, set, remove. */
#include "applets.h"
#include <dirent.h>

static char target[PATH_BYTES_MAX + 1];

static const char *link_target(int dir, const char *name, const struct stat *stat) {
  ssize_t n = S_ISLNK(stat->st_mode) ? readlinkat(dir, name, target, sizeof target - 1) : 0;
  target[n > 0 ? n : 0] = 0;
  return target;
}

/* stat PATH link|follow */
int applet_stat(int argc, char **argv) {
  struct stat stat;
  (void)argc;
  bool follow = !strcmp(argv[1], "follow");
  if (!follow && strcmp(argv[1], "link") != 0) return BAD_USAGE;
  if (fstatat(AT_FDCWD, argv[0], &stat, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) return no(argv[0], errno);
  return out_record("", &stat, link_target(AT_FDCWD, argv[0], &stat)) && out_flush() ? DONE : NO;
}

/* Every entry as a record, its name relative to the directory; no more than `max`, then one empty record says so. */
static int list(struct walk *walk, bool recursive, uint64_t max) {
  struct stat stat;
  for (uint64_t count = 0;;) {
    enum walked what = walk_next(walk);
    if (what == WALK_END) return 0;
    if (what == WALK_FAILED) return errno;
    if (what == WALK_LEFT || fstatat(walk_fd(walk), walk->name, &stat, AT_SYMLINK_NOFOLLOW) < 0) continue;
    if (count++ == max) return out_bytes("\0\0", 3) ? 0 : EIO;
    if (!out_record(walk->path, &stat, link_target(walk_fd(walk), walk->name, &stat))) return EIO;
    if (!recursive || !S_ISDIR(stat.st_mode) || walk_enter(walk)) continue;
    if (errno != EACCES && errno != ENOENT && errno != ENOTDIR) return errno;
  }
}

/* list PATH MAX one|all */
int applet_list(int argc, char **argv) {
  struct walk walk;
  struct stat stat;
  uint64_t max;
  (void)argc;
  bool recursive = !strcmp(argv[2], "all");
  if (!to_number(argv[1], 10, INT64_MAX, &max) || (!recursive && strcmp(argv[2], "one") != 0)) return BAD_USAGE;
  int fd = open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOTDIR && fstatat(AT_FDCWD, argv[0], &stat, 0) == 0) return no(argv[0], ENOTDIR), NO;
  if (fd < 0) return no(argv[0], errno);
  int error = walk_begin(&walk, fd) ? list(&walk, recursive, max) : errno;
  walk_end(&walk);
  if (!error && !out_flush()) error = EIO;
  return error ? no(argv[0], error), NO : DONE;
}

static bool is_name(const char *name) { return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0; }

/* mkdir PATH MODE one|parents */
int applet_mkdir(int argc, char **argv) {
  struct stat stat;
  char name[256];
  uint64_t mode;
  (void)argc;
  bool parents = !strcmp(argv[2], "parents");
  if (!to_number(argv[1], 8, 07777, &mode) || (!parents && strcmp(argv[2], "one") != 0)) return BAD_USAGE;
  if (parents && fstatat(AT_FDCWD, argv[0], &stat, 0) == 0 && S_ISDIR(stat.st_mode)) return DONE;
  int dir = parent_of(AT_FDCWD, argv[0], name, parents);
  if (dir < 0) return errno == ENOTDIR ? (no(argv[0], errno), NO) : no(argv[0], errno);
  if (mkdirat(dir, name, 0700) < 0) return no(argv[0], is_name(name) ? errno : EEXIST);
  return fchmodat(dir, name, (mode_t)mode, 0) < 0 ? no(argv[0], errno) : DONE;
}

/* remove PATH one|all */
int applet_remove(int argc, char **argv) {
  char name[256];
  (void)argc;
  bool all = !strcmp(argv[1], "all");
  if (!all && strcmp(argv[1], "one") != 0) return BAD_USAGE;
  int dir = parent_of(AT_FDCWD, argv[0], name, false), error = 0;
  if (dir < 0) return no(argv[0], errno);
  if (!is_name(name)) error = EBUSY;
  else if (all) error = remove_tree(dir, name);
  else if (unlinkat(dir, name, 0) < 0 && ((errno != EISDIR && errno != EPERM) || unlinkat(dir, name, AT_REMOVEDIR) < 0))
    error = errno;
  return error ? no(argv[0], error) : DONE;
}

static bool to_time(const char *text, struct timespec *time) {
  uint64_t ns;
  bool before = *text == '-';
  if (!to_number(text + before, 10, INT64_MAX, &ns)) return false;
  int64_t seconds = (int64_t)(ns / 1000000000), rest = (int64_t)(ns % 1000000000);
  if (before && rest) seconds++, rest = 1000000000 - rest;
  *time = (struct timespec){ .tv_sec = before ? -seconds : seconds, .tv_nsec = rest };
  return true;
}

/* set PATH [owner=UID:GID] [mode=MODE] [modified=NANOSECONDS], in this order: a new owner takes bits of the mode. */
int applet_set(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT } };
    uint64_t mode;
    uid_t uid;
    gid_t gid;
    int result;
    if (!strncmp(argv[i], "owner=", 6) && to_owner(argv[i] + 6, &uid, &gid)) result = chown(argv[0], uid, gid);
    else if (!strncmp(argv[i], "mode=", 5) && to_number(argv[i] + 5, 8, 07777, &mode))
      result = chmod(argv[0], (mode_t)mode);
    else if (!strncmp(argv[i], "modified=", 9) && to_time(argv[i] + 9, &times[1]))
      result = utimensat(AT_FDCWD, argv[0], times, 0);
    else return BAD_USAGE;
    if (result < 0) return no(argv[0], errno);
  }
  return DONE;
}
