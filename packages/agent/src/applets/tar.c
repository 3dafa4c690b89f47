/*
 * tar PATH: the tree as a pax archive on standard output, names relative to it ("./" is the directory itself). A file
 * that changes meanwhile is cut or filled up to the size in its header, so that the archive stays one. Sockets, devices and
 * the content of the kernel's own file systems are left out.
 */
#include "tar-header.h"
#include <dirent.h>
#include <linux/magic.h>
#include <sys/sendfile.h>
#include <sys/vfs.h>

enum { LINKS_MAX = 1 << 14, LINK_BYTES_MAX = 16 << 20, OCTAL_8 = 07777777 };
#define OCTAL_12 077777777777LL

static uint8_t block[BLOCK_BYTES];
static char *extended; /* records of the pax header */
static size_t extended_length, extended_room;

/* Files with several names, by where they are: the first name that was written. Past the bounds they come again. */
static struct seen { dev_t dev; ino_t ino; char *name; } seen[LINKS_MAX];
static size_t seen_count, seen_bytes;

static const char *first_name(const struct stat *stat, const char *name) {
  size_t at = (stat->st_ino * 2654435761U ^ stat->st_dev) % LINKS_MAX;
  while (seen[at].name && (seen[at].ino != stat->st_ino || seen[at].dev != stat->st_dev)) at = (at + 1) % LINKS_MAX;
  if (seen[at].name) return seen[at].name;
  if (seen_count >= LINKS_MAX / 2 || seen_bytes + strlen(name) > LINK_BYTES_MAX) return NULL;
  seen[at] = (struct seen){ stat->st_dev, stat->st_ino, strdup(name) };
  seen_count++;
  seen_bytes += strlen(name);
  return NULL;
}

/* `length key=value\n`, the length counting itself. */
static bool extend(const char *key, const char *value) {
  size_t length = strlen(key) + strlen(value) + 3, digits = 1;
  for (size_t bound = 10; length + digits >= bound; bound *= 10) digits++;
  length += digits;
  if (extended_length + length + 1 > extended_room) {
    char *more = realloc(extended, (extended_length + length + 1) * 2);
    if (!more) return false;
    extended = more;
    extended_room = (extended_length + length + 1) * 2;
  }
  extended_length += (size_t)sprintf(extended + extended_length, "%zu %s=%s\n", length, key, value);
  return true;
}

static bool extend_number(const char *key, long long value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", value);
  return extend(key, text);
}

static void octal(char *field, size_t size, unsigned long long value) {
  field[size - 1] = 0;
  for (size_t i = size - 1; i-- > 0; value >>= 3) field[i] = (char)('0' + (value & 7));
}

static bool pad(unsigned long long length) {
  static const uint8_t zeros[TAR_BLOCK];
  return out_bytes(zeros, (size_t)(-length % TAR_BLOCK));
}

static bool put_block(struct tar_header *header) {
  memcpy(header->magic, "ustar", 6);
  memcpy(header->version, "00", 2);
  memset(header->checksum, ' ', sizeof header->checksum);
  snprintf(header->checksum, sizeof header->checksum, "%06o", tar_checksum(header));
  return out_bytes(header, TAR_BLOCK);
}

static bool put_text(char *field, size_t size, const char *key, const char *text) {
  size_t length = strlen(text);
  memcpy(field, text, length < size ? length : size);
  return length <= size || extend(key, text);
}

static bool put_header(const char *name, const struct stat *stat, char type, const char *link) {
  struct tar_header header = { .type = type };
  char text[48];
  long long size = type == '0' ? stat->st_size : 0, seconds = stat->st_mtim.tv_sec;
  bool fits = true;
  extended_length = 0;
  fits &= put_text(header.name, sizeof header.name, "path", name);
  fits &= put_text(header.linkname, sizeof header.linkname, "linkpath", link);
  if (size > OCTAL_12) fits &= extend_number("size", size);
  if (stat->st_uid > OCTAL_8) fits &= extend_number("uid", stat->st_uid);
  if (stat->st_gid > OCTAL_8) fits &= extend_number("gid", stat->st_gid);
  if (stat->st_mtim.tv_nsec || seconds < 0 || seconds > OCTAL_12) {
    /* Before the epoch the fraction counts the other way: -1.25 is 2 seconds before it and 750 milliseconds on. */
    bool before = seconds < 0 && stat->st_mtim.tv_nsec;
    long ns = before ? 1000000000 - stat->st_mtim.tv_nsec : stat->st_mtim.tv_nsec;
    snprintf(text, sizeof text, "%s%lld.%09ld", before && seconds == -1 ? "-" : "", before ? seconds + 1 : seconds, ns);
    fits &= extend("mtime", text);
  }
  if (!fits) return errno = ENOMEM, false;
  if (extended_length) {
    struct tar_header pax = { .type = 'x' };
    strcpy(pax.name, "././@PaxHeader");
    octal(pax.mode, 8, 0644), octal(pax.uid, 8, 0), octal(pax.gid, 8, 0), octal(pax.mtime, 12, 0);
    octal(pax.size, 12, extended_length);
    if (!put_block(&pax) || !out_bytes(extended, extended_length) || !pad(extended_length)) return false;
  }
  octal(header.mode, 8, stat->st_mode & 07777);
  octal(header.uid, 8, stat->st_uid > OCTAL_8 ? 0 : stat->st_uid);
  octal(header.gid, 8, stat->st_gid > OCTAL_8 ? 0 : stat->st_gid);
  octal(header.size, 12, size > OCTAL_12 ? 0 : (unsigned long long)size);
  octal(header.mtime, 12, seconds < 0 || seconds > OCTAL_12 ? 0 : (unsigned long long)seconds);
  return put_block(&header);
}

/* Exactly `left` bytes, whatever the file has. */
static bool put_content(int fd, off_t left) {
  off_t size = left;
  bool ended = false, spliced = left > (off_t)sizeof block;
  if (spliced && !out_flush()) return false;
  while (left > 0) {
    size_t want = left < (off_t)sizeof block ? (size_t)left : sizeof block;
    ssize_t n = 0;
    if (!ended) n = spliced ? sendfile(1, fd, NULL, want) : read(fd, block, want);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && spliced && (errno == EINVAL || errno == ENOSYS)) {
      spliced = false;
      continue;
    }
    if (n < 0) return false;
    if (n == 0) {
      if (!ended) memset(block, 0, sizeof block);
      ended = true, spliced = false;
      n = (ssize_t)want;
    }
    if (!spliced && !out_bytes(block, (size_t)n)) return false;
    left -= n;
  }
  return pad((unsigned long long)size);
}

static bool put_file(int fd, const char *name, const struct stat *stat) {
  const char *first = stat->st_nlink > 1 ? first_name(stat, name) : NULL;
  if (first) return put_header(name, stat, '1', first);
  return put_header(name, stat, '0', "") && put_content(fd, stat->st_size);
}

/* One entry that is no directory. What vanished meanwhile, or became something else, is left out. */
static bool put_entry(int dir, const char *entry, const char *name) {
  char target[PATH_BYTES_MAX + 1];
  struct stat stat;
  if (fstatat(dir, entry, &stat, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT;
  if (S_ISLNK(stat.st_mode)) {
    ssize_t n = readlinkat(dir, entry, target, sizeof target - 1);
    if (n < 0) return errno == ENOENT || errno == EINVAL;
    target[n] = 0;
    return put_header(name, &stat, '2', target);
  }
  if (S_ISFIFO(stat.st_mode)) return put_header(name, &stat, '6', "");
  if (!S_ISREG(stat.st_mode)) return true;
  int fd = openat(dir, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ELOOP;
  bool done = fstat(fd, &stat) == 0 && (!S_ISREG(stat.st_mode) || put_file(fd, name, &stat));
  int error = errno;
  close(fd);
  return errno = error, done;
}

/* Of the kernel's making: what is in them is no file of anybody's, and may have no end. */
static bool is_kernels(int fd) {
  static const long kinds[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
                                DEVPTS_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC,
                                PSTOREFS_MAGIC, 0x19800202 /* mqueue */ };
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return false;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (fs.f_type == kinds[i]) return true;
  return false;
}

/* Goes into the directory that the walk is at. */
static bool put_directory(struct walk *walk) {
  struct stat stat;
  if (!walk_enter(walk)) return errno == ENOENT;
  size_t length = strlen(walk->path);
  char *name = malloc(length + 2);
  if (!name || fstat(walk_fd(walk), &stat) < 0) return free(name), false;
  strcpy(memcpy(name, walk->path, length) + length, "/");
  if (is_kernels(walk_fd(walk))) walk_skip(walk);
  bool put = put_header(name, &stat, '5', "");
  free(name);
  return put;
}

static bool put_tree(struct walk *walk) {
  struct stat stat;
  if (fstat(walk_fd(walk), &stat) < 0 || !put_header("./", &stat, '5', "")) return false;
  for (enum walked what; (what = walk_next(walk)) != WALK_END;) {
    if (what == WALK_FAILED) return false;
    if (what == WALK_LEFT) continue;
    bool directory = walk->type == DT_DIR;
    if (walk->type == DT_UNKNOWN && fstatat(walk_fd(walk), walk->name, &stat, AT_SYMLINK_NOFOLLOW) == 0)
      directory = S_ISDIR(stat.st_mode);
    if (!(directory ? put_directory(walk) : put_entry(walk_fd(walk), walk->name, walk->path))) return false;
  }
  return true;
}

static int tar_file(const char *path) {
  const char *slash = strrchr(path, '/');
  struct stat stat;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stat) < 0) return errno;
  if (!S_ISREG(stat.st_mode)) return EINVAL;
  return put_file(fd, slash ? slash + 1 : path, &stat) ? 0 : errno;
}

int applet_tar(int argc, char **argv) {
  static const uint8_t end[2 * TAR_BLOCK];
  struct walk walk = { 0 };
  char *at = argv[0];
  (void)argc;
  int fd = open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
  if (fd < 0 && errno != ENOTDIR) return no(argv[0], errno);
  if (fd < 0) error = tar_file(argv[0]);
  else if (!walk_begin(&walk, fd)) error = errno;
  else if (!put_tree(&walk)) error = errno, at = walk.path;
  if (!error && (!out_bytes(end, sizeof end) || !out_flush())) error = errno;
  int code = error ? no(at, error) : DONE;
  if (fd >= 0) walk_end(&walk);
  return error && fd >= 0 ? NO : code;
}
