/* Files in and out of the sandbox, as a command's user, where there may be no shell: put and get, write and read. */
#include "applets.h"
#include <linux/magic.h>
#include <sys/sendfile.h>
#include <sys/vfs.h>

enum { LINKS_MAX = 40, PSEUDO_BYTES_MAX = 64 << 20 };
static uint8_t buffer[BLOCK_BYTES + MARK_BYTES];

/* What a write goes to: the directory, the name in it, and what is there now. */
struct goal { int dir; char name[256]; struct stat stat; bool exists; };

/* Follows a link at the end of the path as long as it leads to a file. 0, or the error. */
static int find_goal(struct goal *goal, const char *path) {
  struct stat at_end;
  char link[PATH_BYTES_MAX + 1];
  goal->dir = parent_of(AT_FDCWD, path, goal->name, true);
  for (int links = 0;; links++) {
    if (goal->dir < 0) return errno;
    goal->exists = fstatat(goal->dir, goal->name, &goal->stat, AT_SYMLINK_NOFOLLOW) == 0;
    if (!goal->exists || !S_ISLNK(goal->stat.st_mode)) return goal->exists || errno == ENOENT ? 0 : errno;
    if (fstatat(goal->dir, goal->name, &at_end, 0) < 0) return errno == ENOENT ? 0 : errno;
    ssize_t n = readlinkat(goal->dir, goal->name, link, sizeof link);
    if (n < 0 || n == sizeof link || links == LINKS_MAX) return n < 0 ? errno : ELOOP;
    link[n] = 0;
    int from = goal->dir;
    goal->dir = parent_of(from, link, goal->name, false);
    close(from);
  }
}

/* Standard input to its end, which only the mark makes one: a host that vanished closes it too. */
static int take_content(int fd, const char *mark) {
  size_t have = 0, kept = strlen(mark);
  off_t at = 0;
  for (ssize_t n; (n = read(0, buffer + have, BLOCK_BYTES + kept - have)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    have += (size_t)n;
    if (have < BLOCK_BYTES + kept) continue;
    if (!write_sparse(fd, buffer, BLOCK_BYTES, at)) return errno;
    at += BLOCK_BYTES;
    memmove(buffer, buffer + BLOCK_BYTES, have = kept);
  }
  if (have < kept || memcmp(buffer + have - kept, mark, kept) != 0) return EPIPE;
  if (!write_sparse(fd, buffer, have - kept, at) || ftruncate(fd, at + (off_t)(have - kept)) < 0) return errno;
  return 0;
}

/* `fresh`: nothing of what was there is kept. */
struct wish { const char *mark; bool mode_given, owner_given, fresh; mode_t mode; uid_t uid; gid_t gid; };

/* The owner of what was there is kept where this user may give files away; the bits that lend rights only with it. */
static int dress(int fd, const struct goal *goal, const struct wish *wish) {
  mode_t mode = wish->mode_given ? wish->mode : goal->exists && !wish->fresh ? goal->stat.st_mode & 07777 : 0644;
  if (wish->owner_given && fchown(fd, wish->uid, wish->gid) < 0) return errno;
  bool kept = goal->exists && !wish->owner_given && !wish->fresh;
  if (kept && fchown(fd, goal->stat.st_uid, goal->stat.st_gid) < 0) {
    if (fchown(fd, -1, goal->stat.st_gid) < 0 && !wish->mode_given) mode &= ~(mode_t)S_ISGID;
    if (!wish->mode_given) mode &= ~(mode_t)S_ISUID;
  }
  return fchmod(fd, mode) < 0 ? errno : 0;
}

static int store(struct goal *goal, const struct wish *wish, struct stat *result) {
  struct sink sink;
  int error = sink_open(&sink, goal->dir) ? take_content(sink.fd, wish->mark) : errno;
  if (!error) error = dress(sink.fd, goal, wish);
  if (!error && fstat(sink.fd, result) < 0) error = errno;
  if (!error && !sink_commit(&sink, goal->name, goal->exists)) error = errno;
  sink_drop(&sink);
  close(goal->dir);
  return error;
}

static bool ends_in_slash(const char *path) { return *path && path[strlen(path) - 1] == '/'; }

int applet_put(int argc, char **argv) {
  struct wish wish = { .mark = "", .mode_given = true, .fresh = true };
  struct goal goal = { 0 };
  struct stat result;
  uint64_t mode;
  (void)argc;
  if (!to_number(argv[1], 8, 07777, &mode)) return complain(NO, argv[1], errno);
  wish.mode = (mode_t)mode;
  if (ends_in_slash(argv[0])) return complain(NO, argv[0], EISDIR);
  goal.dir = parent_of(AT_FDCWD, argv[0], goal.name, true);
  if (goal.dir < 0) return complain(NO, argv[0], errno);
  goal.exists = fstatat(goal.dir, goal.name, &goal.stat, AT_SYMLINK_NOFOLLOW) == 0;
  int error = goal.exists && S_ISDIR(goal.stat.st_mode) ? EISDIR : store(&goal, &wish, &result);
  return error ? complain(NO, argv[0], error) : DONE;
}

/* write PATH MARK [MODE|- [UID:GID|-]] */
int applet_write(int argc, char **argv) {
  struct wish wish = { .mark = argv[1] };
  struct goal goal = { 0 };
  struct stat result;
  uint64_t mode = 0;
  wish.mode_given = argc > 2 && strcmp(argv[2], "-") != 0;
  wish.owner_given = argc > 3 && strcmp(argv[3], "-") != 0;
  if (strlen(argv[1]) != MARK_BYTES) return BAD_USAGE;
  if (wish.mode_given && !to_number(argv[2], 8, 07777, &mode)) return BAD_USAGE;
  if (wish.owner_given && !to_owner(argv[3], &wish.uid, &wish.gid)) return BAD_USAGE;
  wish.mode = (mode_t)mode;
  int error = ends_in_slash(argv[0]) ? EISDIR : find_goal(&goal, argv[0]);
  if (!error && (!goal.name[0] || (goal.exists && S_ISDIR(goal.stat.st_mode)))) error = EISDIR;
  /* A link that leads nowhere gives way to a file; what is no file stays. */
  if (!error && goal.exists && S_ISLNK(goal.stat.st_mode)) wish.fresh = true;
  else if (!error && goal.exists && !S_ISREG(goal.stat.st_mode)) error = EINVAL;
  if (!error) error = store(&goal, &wish, &result);
  if (error) return no(argv[0], error), NO;
  return out_record("", &result, "") && out_flush() ? DONE : NO;
}

int applet_get(int argc, char **argv) {
  const char *path = argv[0], *max = argv[1];
  unsigned long long sent = 0;
  uint64_t limit;
  struct stat stat;
  (void)argc;
  if (!to_number(max, 10, UINT64_MAX, &limit)) return complain(1, max, EINVAL);
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

/* Files of the kernel's have content of a length that nobody knows before it is read: it is read once, to memory. */
static int pseudo_copy(int fd, struct stat *stat) {
  int copy = memfd_create("content", MFD_CLOEXEC);
  off_t length = 0;
  for (ssize_t n = 1; copy >= 0 && n;) {
    n = read(fd, buffer, BLOCK_BYTES);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 || (length += n) > PSEUDO_BYTES_MAX) return errno = n < 0 ? errno : EFBIG, -1;
    if (!write_all(copy, buffer, (size_t)n)) return -1;
  }
  stat->st_size = length;
  return copy;
}

static bool is_pseudo(int fd, const struct stat *stat) {
  struct statfs fs;
  if (stat->st_size && stat->st_blocks) return false;
  if (fstatfs(fd, &fs) < 0) return true;
  static const long real[] = { TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,
                               BTRFS_SUPER_MAGIC };
  for (size_t i = 0; i < sizeof real / sizeof *real; i++)
    if (fs.f_type == real[i]) return false;
  return stat->st_size <= 1 << 20;
}

static int send_range(int fd, off_t at, uint64_t length) {
  bool spliced = true;
  while (length) {
    size_t want = length < 1 << 20 ? (size_t)length : 1 << 20;
    ssize_t n = spliced ? sendfile(1, fd, &at, want) : pread(fd, buffer, want < BLOCK_BYTES ? want : BLOCK_BYTES, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && spliced && (errno == EINVAL || errno == ENOSYS)) {
      spliced = false;
      continue;
    }
    if (n <= 0) return n < 0 ? errno : ESTALE; /* it became shorter than was said */
    if (!spliced && !write_all(1, buffer, (size_t)n)) return errno;
    if (!spliced) at += n;
    length -= (uint64_t)n;
  }
  return 0;
}

/* read PATH OFFSET [LENGTH]: the record of the file, then exactly what of it is in the range. */
int applet_read(int argc, char **argv) {
  uint64_t offset, length = INT64_MAX;
  struct stat stat;
  if (!to_number(argv[1], 10, INT64_MAX, &offset)) return BAD_USAGE;
  if (argc > 2 && !to_number(argv[2], 10, INT64_MAX, &length)) return BAD_USAGE;
  int fd = open(argv[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat(fd, &stat) < 0) return no(argv[0], errno);
  if (!S_ISREG(stat.st_mode)) return no(argv[0], S_ISDIR(stat.st_mode) ? EISDIR : EINVAL);
  if (is_pseudo(fd, &stat) && (fd = pseudo_copy(fd, &stat)) < 0) return no(argv[0], errno);
  if (!out_record("", &stat, "") || !out_flush()) return NO;
  uint64_t left = offset < (uint64_t)stat.st_size ? (uint64_t)stat.st_size - offset : 0;
  int error = send_range(fd, (off_t)offset, length < left ? length : left);
  return error ? no(argv[0], error), NO : DONE;
}
