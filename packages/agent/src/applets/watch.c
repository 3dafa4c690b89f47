/* watch: what changes in a file or in a directory, and below it, by inotify(7). */
#include "applets.h"
#include <dirent.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

enum {
  NO_WATCH = 5, /* exit code: the kernel gives no more */
  QUEUE_BYTES = 64 << 10,
  BUCKETS = 4096, CHANGES = 1024, REPORTED = 1 << 15, /* of hash tables, powers of two */
  PAIR_MS = 10,                                       /* that the other half of a move may take */
  MODIFY_MS = 100,                                    /* between two `modify` of one file */
  LOOK_MS = 1000,                                     /* after which it looks whether its path still leads there */
  WATCHED = IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR |
            IN_EXCL_UNLINK,
  WATCHED_ROOT = WATCHED | IN_DELETE_SELF | IN_MOVE_SELF, WATCHED_BELOW = WATCHED | IN_DONT_FOLLOW,
};

/* A watched directory. Its path is the names up to the root, so that moving one is one step. */
struct node {
  struct node *parent, *children, *next, **prev, *by_wd, *by_name, *to_scan;
  char *name;
  dev_t device;
  ino_t inode;
  int wd;
};
static struct node *root, *wds[BUCKETS], *names[BUCKETS];
static size_t count, most, ceiling; /* of nodes; `ceiling`: how many there were when there was no room for more */
static int notify = -1;
static bool recursive, gone, full, present = true; /* `present`: the file `only` is there, as far as was told */
static char given[PATH_MAX + 1], base[PATH_MAX + 1]; /* what is watched, and its directory */
static const char *only;                             /* the name in it, where that is no directory */
static const char *missed, *rebuild;                 /* why something was missed; why all has to be watched anew */

/* Events that were read and not yet taken. Positions count the bytes of all events since the queue was opened. */
static uint8_t queue[QUEUE_BYTES] __attribute__((aligned(__alignof__(struct inotify_event))));
static size_t at, end;
static uint64_t taken, settled, fence;

/* Changes of files that were told, or wait to be: one place each, by hash. */
static struct change { int wd; bool waits, directory; int64_t told, due; char name[NAME_MAX + 1]; } changes[CHANGES];
static int64_t next_due = INT64_MAX;

/* Hashes of what a scan reported while its event may still be in the queue, up to `fence`. */
static uint64_t reported[REPORTED];
static size_t reported_count;

static uint64_t hash(uint64_t seed, const char *name) {
  uint64_t value = (seed + 1) * 0x9e3779b97f4a7c15u;
  for (; *name; name++) value = (value ^ (uint8_t)*name) * 0x100000001b3u;
  value = (value ^ value >> 32) * 0x9e3779b97f4a7c15u;
  return (value ^ value >> 29) | 2; /* 0 is an empty place, 1 one that was */
}

/* The path of `name` in a directory, or of the directory itself. NULL: longer than paths can be. */
static const char *path_of(const struct node *node, const char *name) {
  static char buffer[2][PATH_MAX + 1];
  static int turn;
  char *path = buffer[turn ^= 1], *start = path + PATH_MAX;
  *start = 0;
  for (; node; node = node->parent) {
    for (int i = 0; i < 2; i++) {
      const char *part = i ? node->name : name;
      if (!part) continue;
      size_t length = strlen(part);
      bool slash = part != node->name || node->parent;
      if ((size_t)(start - path) < length + slash) return NULL;
      memcpy(start -= length, part, length);
      if (slash) *--start = '/';
    }
    name = NULL;
  }
  return *start ? start : "/";
}

static void field(const char *text) { out_bytes(text, strlen(text) + 1); }
static void say(char what, bool directory, const char *path) {
  char head[] = { what, directory ? 'd' : 'f' };
  if (!path) { missed = "a path is too long"; return; }
  out_bytes(head, 2);
  field(path);
}
static void say_name(char what, bool directory, const struct node *node, const char *name) {
  say(what, directory, only ? given : path_of(node, name));
}
static void say_overflow(const char *why) {
  out_bytes("o", 1);
  field(why);
}

static struct node **name_bucket(const struct node *parent, const char *name) {
  return &names[hash((uint64_t)(uintptr_t)parent, name) >> 8 & (BUCKETS - 1)];
}
static struct node *by_wd(int wd) {
  struct node *node = wds[(unsigned)wd & (BUCKETS - 1)];
  while (node && node->wd != wd) node = node->by_wd;
  return node;
}
static struct node *by_name(const struct node *parent, const char *name) {
  struct node *node = *name_bucket(parent, name);
  while (node && (node->parent != parent || strcmp(node->name, name) != 0)) node = node->by_name;
  return node;
}

static void link_node(struct node *node) {
  struct node **bucket = name_bucket(node->parent, node->name);
  node->by_name = *bucket;
  *bucket = node;
  if (!node->parent) return;
  node->prev = &node->parent->children;
  if ((node->next = node->parent->children)) node->next->prev = &node->next;
  node->parent->children = node;
}
static void unlink_node(struct node *node) {
  struct node **each = name_bucket(node->parent, node->name);
  while (*each != node) each = &(*each)->by_name;
  *each = node->by_name;
  if (!node->parent) return;
  if (node->next) node->next->prev = node->prev;
  *node->prev = node->next;
}
static void set_wd(struct node *node, int wd) {
  struct node **each = &wds[(unsigned)node->wd & (BUCKETS - 1)];
  if (node->wd >= 0) {
    while (*each != node) each = &(*each)->by_wd;
    *each = node->by_wd;
  }
  if ((node->wd = wd) < 0) return;
  each = &wds[(unsigned)wd & (BUCKETS - 1)];
  node->by_wd = *each;
  *each = node;
}

/* There is no room; that is said once. */
static void set_full(const char *why) {
  if (full) return;
  full = true;
  ceiling = 0;
  missed = why;
}
static struct node *add_node(struct node *parent, const char *name) {
  struct node *node = count < most ? calloc(1, sizeof *node) : NULL;
  if (!node || !(node->name = strdup(name))) {
    set_full(count < most ? "no memory" : "there are more directories than may be watched");
    free(node);
    return NULL;
  }
  node->parent = parent;
  node->wd = -1;
  link_node(node);
  count++;
  return node;
}
static void drop_node(struct node *top) {
  for (struct node *node = top; node;) {
    if (node->children) { node = node->children; continue; }
    struct node *parent = node == top ? NULL : node->parent;
    if (node->wd >= 0) inotify_rm_watch(notify, node->wd);
    set_wd(node, -1);
    unlink_node(node);
    free(node->name);
    free(node);
    count--;
    node = parent;
  }
}

static uint64_t *reported_place(int wd, const char *name, uint64_t *key) {
  *key = hash((uint64_t)wd, name);
  uint64_t *place = &reported[*key >> 8 & (REPORTED - 1)];
  while (*place && *place != *key) place = place == reported + REPORTED - 1 ? reported : place + 1;
  return place;
}
static void report(const struct node *node, const char *name, bool directory) {
  uint64_t key, *place = reported_place(node->wd, name, &key);
  say_name('c', directory, node, name);
  if (*place || reported_count >= REPORTED / 2) return; /* past the bound it may be told twice */
  *place = key;
  reported_count++;
}
/* Whether a scan has told of it already; true once. */
static bool was_reported(const struct node *node, const char *name) {
  uint64_t key, *place;
  if (!reported_count || !*(place = reported_place(node->wd, name, &key))) return false;
  *place = 1;
  return true;
}
static void reported_clear(void) {
  if (reported_count) memset(reported, 0, sizeof reported);
  reported_count = 0;
}

/* File systems that the kernel makes up: endless, and silent. */
static bool made_up(int fd) {
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return true;
  return fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC || fs.f_type == CGROUP_SUPER_MAGIC ||
         fs.f_type == CGROUP2_SUPER_MAGIC || fs.f_type == DEVPTS_SUPER_MAGIC;
}

static bool watch_node(struct node *node, const char *path) {
  int wd = inotify_add_watch(notify, path, node == root ? WATCHED_ROOT : WATCHED_BELOW);
  if (wd < 0) {
    if (errno == ENOSPC || errno == ENOMEM) set_full("the kernel watches no more (fs.inotify.max_user_watches)");
    else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && !missed)
      missed = errno == EACCES ? "a directory may not be read" : "a directory cannot be watched";
    return false;
  }
  struct node *other = by_wd(wd);
  if (other && other != node) set_wd(other, -1); /* it moved here, which its event will tell */
  set_wd(node, wd);
  return true;
}

/* Watches a directory and all below it. What is there is told, in a directory that is new. */
static void scan(struct node *node, bool is_new) {
  struct stat stat;
  for (struct node *last = node, *next; node; node = next) {
    const char *path = path_of(node, NULL);
    if (!path) missed = "a path is too long";
    int fd = path && watch_node(node, path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (node == root ? 0 : O_NOFOLLOW)) : -1;
    bool usable = fd >= 0 && fstat(fd, &stat) == 0 && (!node->parent || stat.st_dev == node->parent->device || !made_up(fd));
    DIR *directory = usable && recursive ? fdopendir(fd) : NULL;
    if (!directory && fd >= 0) close(fd);
    node->device = usable ? stat.st_dev : 0, node->inode = usable ? stat.st_ino : 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
      bool below = entry->d_type == DT_DIR;
      if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
      if (entry->d_type == DT_UNKNOWN)
        below = fstatat(dirfd(directory), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(stat.st_mode);
      if (is_new) report(node, entry->d_name, below);
      if (below && recursive && (next = add_node(node, entry->d_name))) last = last->to_scan = next;
    }
    if (directory) closedir(directory);
    next = node->to_scan;
    node->to_scan = NULL;
    if (!usable && node != root) drop_node(node);
    if (node == root && !usable) gone = true;
  }
  int queued = 0;
  if (!reported_count) return;
  ioctl(notify, FIONREAD, &queued);
  fence = taken + (end - at) + (uint64_t)queued;
  if (fence == taken) reported_clear();
}

/* Tells a change that waits. Its directory may have gone meanwhile, and then so has the file. */
static void settle(struct change *change) {
  struct node *node = change->waits ? by_wd(change->wd) : NULL;
  change->waits = false;
  if (node) say_name('m', change->directory, node, *change->name ? change->name : NULL);
}
static void settle_due(int64_t now) {
  next_due = INT64_MAX;
  for (struct change *change = changes; change < changes + CHANGES; change++) {
    if (!change->waits) continue;
    if (change->due <= now) settle(change), change->told = now;
    else if (change->due < next_due) next_due = change->due;
  }
}
static struct change *change_of(const struct node *node, const char *name) {
  return &changes[hash((uint64_t)node->wd, name) >> 8 & (CHANGES - 1)];
}
static bool is_change(const struct change *change, const struct node *node, const char *name) {
  return change->told && change->wd == node->wd && !strcmp(change->name, name);
}
/* `whole`: whoever wrote has closed it, or it was one step. Else it is told later, so that many writes are one change. */
static void modified(struct node *node, const char *name, bool directory, bool whole) {
  struct change *change = change_of(node, name);
  int64_t now = now_ms();
  if (!is_change(change, node, name)) {
    settle(change);
    *change = (struct change){ .wd = node->wd, .directory = directory, .told = now - MODIFY_MS };
    strncpy(change->name, name, NAME_MAX);
  }
  if (whole && now - change->told >= MODIFY_MS) {
    change->waits = true, settle(change);
    change->told = now;
  } else if (!change->waits) {
    change->waits = true;
    change->due = (whole ? change->told : now) + MODIFY_MS;
    if (change->due < next_due) next_due = change->due;
  }
}

static void created(struct node *node, const char *name, bool directory) {
  if (was_reported(node, name)) return;
  present = true;
  say_name('c', directory, node, name);
  if (!directory || !recursive) return;
  struct node *known = by_name(node, name);
  const char *path = path_of(node, name);
  /* The first walk may have come upon it. */
  if (known && path && known->wd >= 0 && inotify_add_watch(notify, path, WATCHED_BELOW) == known->wd) return;
  if (known) drop_node(known);
  if ((known = add_node(node, name))) scan(known, true);
}
static void deleted(struct node *node, const char *name, bool directory) {
  struct change *change = change_of(node, name);
  was_reported(node, name);
  if (only) present = false;
  if (is_change(change, node, name)) change->waits = false;
  say_name('d', directory, node, name);
  struct node *known = directory ? by_name(node, name) : NULL;
  if (known) drop_node(known);
}
static void moved(struct node *from, const char *old, struct node *to, const char *name, bool directory) {
  if (only) {
    if (!strcmp(old, only)) deleted(from, old, directory);
    if (!strcmp(name, only)) created(to, name, directory);
    return;
  }
  if (was_reported(to, name)) { deleted(from, old, directory); return; }
  struct change *change = change_of(from, old);
  if (is_change(change, from, old)) settle(change);
  was_reported(from, old);
  const char *path = path_of(from, old), *target = path_of(to, name);
  if (!path || !target) { missed = "a path is too long"; return; }
  say('v', directory, path);
  field(target);
  struct node *known = directory && recursive ? by_name(from, old) : NULL;
  if (!known) {
    if (directory && recursive && (known = add_node(to, name))) scan(known, false);
    return;
  }
  char *copy = strdup(name);
  if (!copy || by_name(to, name)) { free(copy); rebuild = "two directories changed places"; return; }
  unlink_node(known);
  free(known->name);
  known->name = copy;
  known->parent = to;
  link_node(known);
}

static bool read_more(int timeout_ms) {
  struct pollfd fds[] = { { .fd = notify, .events = POLLIN }, { .fd = 1 } };
  memmove(queue, queue + at, end - at);
  end -= at, at = 0;
  if (QUEUE_BYTES - end < sizeof(struct inotify_event) + NAME_MAX + 1 || poll(fds, 2, timeout_ms) <= 0) return false;
  if (fds[1].revents) _exit(0); /* nobody reads what it says */
  ssize_t n = read(notify, queue + end, QUEUE_BYTES - end);
  if (n > 0) end += (size_t)n;
  return n > 0;
}
/* The other half of a move that began at `position`: it comes at once, or never. */
static struct inotify_event *other_half(uint32_t cookie, uint64_t position) {
  int64_t until = now_ms() + PAIR_MS, left;
  uint64_t mark = taken + (end - at);
  for (size_t next = 0;;) {
    while (at + next < end) {
      struct inotify_event *event = (struct inotify_event *)(void *)(queue + at + next);
      if (event->mask & IN_MOVED_TO && event->cookie == cookie) return event;
      next += sizeof *event + event->len;
    }
    if (position < settled) return NULL;
    if ((left = until - now_ms()) > 0 && read_more((int)left)) continue;
    settled = mark;
    return NULL;
  }
}

/* A file that has no name (O_TMPFILE) is told of as `#` and its inode, where nobody finds it. */
static bool is_nameless(const struct node *node, const char *name) {
  struct stat stat;
  if (*name != '#' || strspn(name + 1, "0123456789") != strlen(name + 1)) return false;
  const char *path = path_of(node, name);
  return path && lstat(path, &stat) < 0;
}

static void take(void) {
  char name[NAME_MAX + 1] = "", other[NAME_MAX + 1];
  const struct inotify_event *event = (const struct inotify_event *)(void *)(queue + at);
  uint64_t position = taken;
  uint32_t mask = event->mask, cookie = event->cookie;
  struct node *node = by_wd(event->wd), *to;
  bool directory = mask & IN_ISDIR;
  if (event->len) strncpy(name, event->name, NAME_MAX);
  at += sizeof *event + event->len;
  taken += sizeof *event + event->len;
  if (reported_count && position >= fence) reported_clear();
  if (mask & IN_Q_OVERFLOW) rebuild = "more changed than the kernel's queue holds";
  if (!node) return;
  if (mask & IN_IGNORED) { set_wd(node, -1); gone |= node == root; return; }
  if (!*name) {
    if (node == root && mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) gone = true;
    else if (node == root && !only && mask & IN_ATTRIB) modified(node, "", true, true);
    return;
  }
  if (mask & IN_MOVED_FROM) {
    struct inotify_event *half = other_half(cookie, position);
    if (half && (to = by_wd(half->wd))) {
      strncpy(other, half->name, NAME_MAX);
      other[NAME_MAX] = 0;
      half->wd = -1; /* taken */
      moved(node, name, to, other, directory);
    } else if (!only || !strcmp(name, only)) deleted(node, name, directory);
    return;
  }
  if (only && strcmp(name, only) != 0) return;
  if (mask & (IN_CREATE | IN_MOVED_TO)) created(node, name, directory);
  else if (mask & IN_DELETE) deleted(node, name, directory);
  else if (!is_nameless(node, name)) modified(node, name, directory, !(mask & IN_MODIFY));
}

/* Opens the kernel's queue and watches everything; what was there before is forgotten. */
static bool begin(void) {
  if (root) drop_node(root);
  if (notify >= 0) close(notify);
  root = NULL, at = end = 0, taken = settled = 0, full = false, rebuild = NULL, next_due = INT64_MAX;
  memset(changes, 0, sizeof changes);
  reported_clear();
  notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (notify < 0) return false;
  if ((root = add_node(NULL, strcmp(base, "/") ? base : ""))) scan(root, false);
  return root;
}

/* Sets `given`, `base` and `only`. Relative paths begin at the working directory. */
static bool find(const char *path) {
  char resolved[PATH_MAX + 1];
  struct stat stat;
  size_t length = 0;
  if (*path != '/' && !getcwd(given, sizeof given)) return false;
  if (*path != '/') length = strlen(given);
  if (length + 1 + strlen(path) >= sizeof given) { errno = ENAMETOOLONG; return false; }
  if (length && given[length - 1] != '/') given[length++] = '/';
  strcpy(given + length, path);
  for (length = strlen(given); length > 1 && given[length - 1] == '/';) given[--length] = 0;
  if (lstat(given, &stat) < 0) return false;
  strcpy(base, given);
  if (S_ISDIR(stat.st_mode)) return true;
  if (!realpath(given, resolved) || lstat(resolved, &stat) < 0) return false;
  if (S_ISDIR(stat.st_mode)) return true;
  /* A file is watched by its directory, which goes on when another file takes its place. */
  char *name = strrchr(resolved, '/');
  only = strdup(name + 1);
  *name = 0;
  strcpy(base, *resolved ? resolved : "/");
  return only;
}

int applet_watch(int argc, char **argv) {
  char *path = argv[argc - 1], *bad = NULL;
  struct stat there;
  most = SIZE_MAX;
  for (int i = 0; i < argc - 1 && !bad; i++) {
    if (!strcmp(argv[i], "--recursive")) recursive = true;
    else if (!strcmp(argv[i], "--max") && i + 1 < argc - 1) most = strtoul(argv[++i], &bad, 10), bad = *bad || !most ? argv[i] : NULL;
    else bad = argv[i];
  }
  if (bad) return complain(BAD_USAGE, bad, EINVAL);
  if (!find(path)) return no(path, errno);
  if (only) recursive = false;
  if (!begin()) return complain(NO_WATCH, "inotify", errno);
  if (gone && full) return complain(NO_WATCH, "inotify", ENOSPC);
  if (gone) return no(path, access(base, R_OK) < 0 ? errno : EACCES);
  out_bytes("r", 2);
  for (;;) {
    if (missed) say_overflow(missed), missed = NULL;
    if (full && !ceiling) ceiling = count;
    if (gone) break;
    out_flush();
    int64_t left = next_due == INT64_MAX ? LOOK_MS : next_due - now_ms();
    bool heard = read_more(left > LOOK_MS ? LOOK_MS : left < 0 ? 0 : (int)left);
    /* A directory that somebody works in says nothing when it is deleted, nor does one whose parent is moved. */
    if (!heard) gone = stat(base, &there) < 0 || there.st_ino != root->inode || there.st_dev != root->device;
    while (at < end && !rebuild && !gone) take();
    if (next_due != INT64_MAX && now_ms() >= next_due) settle_due(now_ms());
    if (full && ceiling && !rebuild && count < ceiling - ceiling / 4) rebuild = "there is room to watch directories that were not";
    if (!rebuild || gone) continue;
    const char *why = rebuild;
    if (!begin() && !gone) return complain(NO_WATCH, "inotify", errno);
    if (!gone) say_overflow(why);
  }
  if (present) say('d', !only, given);
  out_flush();
  return 0;
}
