/*
 * A walk through a tree, one entry at a time, by descriptors. Only the deepest directories are held open; one further
 * up is opened again through the `..` of its child, and must be the directory it was, else it was moved meanwhile.
 */
#include "applets.h"
#include <sys/syscall.h>

enum { HELD = 32, DEPTH_MAX = 1 << 18 };
struct level { int fd; dev_t dev; ino_t ino; int64_t cookie; size_t length; bool skipped; };
struct entry64 { uint64_t ino; int64_t off; uint16_t bytes; uint8_t type; char name[]; };

static void *grown(void *array, size_t *room, size_t needed, size_t size) {
  if (needed <= *room) return array;
  size_t next = needed * 2;
  void *more = realloc(array, next * size);
  if (more) *room = next;
  return more;
}

static bool push(struct walk *walk, int fd, size_t length) {
  struct stat stat;
  struct level *levels = fd < 0 ? NULL : grown(walk->levels, &walk->levels_room, walk->depth + 1, sizeof *levels);
  if (levels) walk->levels = levels;
  if (!levels || fstat(fd, &stat) < 0) {
    int error = fd < 0 ? errno : levels ? errno : ENOMEM;
    if (fd >= 0) close(fd);
    return errno = error, false;
  }
  size_t slot = walk->depth % HELD;
  if (walk->depth >= HELD) {
    close(levels[walk->depth - HELD].fd);
    levels[walk->depth - HELD].fd = -1;
  }
  levels[walk->depth++] = (struct level){ .fd = fd, .dev = stat.st_dev, .ino = stat.st_ino, .length = length };
  walk->held[slot].at = walk->held[slot].end = 0;
  return true;
}

/* Takes the descriptor over, of a directory, open for reading. */
bool walk_begin(struct walk *walk, int fd) {
  memset(walk, 0, sizeof *walk);
  walk->buffers = malloc(HELD * sizeof *walk->buffers);
  walk->path = calloc(1, walk->path_room = 512);
  walk->name = walk->path;
  if (!walk->buffers || !walk->path) return close(fd), errno = ENOMEM, false;
  return push(walk, fd, 0);
}

void walk_end(struct walk *walk) {
  while (walk->depth)
    if (walk->levels[--walk->depth].fd >= 0) close(walk->levels[walk->depth].fd);
  free(walk->levels);
  free(walk->buffers);
  free(walk->path);
  memset(walk, 0, sizeof *walk);
}

/* Of the directory that the entry is in. */
int walk_fd(const struct walk *walk) { return walk->levels[walk->depth - 1].fd; }

/* Into the entry that came last. */
bool walk_enter(struct walk *walk) {
  if (walk->depth == DEPTH_MAX) return errno = ENAMETOOLONG, false;
  int fd = openat(walk_fd(walk), walk->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return push(walk, fd, strlen(walk->path));
}

/* Nothing in the directory that was entered last is looked at. */
void walk_skip(struct walk *walk) { walk->levels[walk->depth - 1].skipped = true; }

static bool reopen(struct walk *walk, struct level *level, int child) {
  struct stat stat;
  int fd = openat(child, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  if (fstat(fd, &stat) < 0 || stat.st_dev != level->dev || stat.st_ino != level->ino)
    return close(fd), errno = ESTALE, false;
  if (lseek(fd, walk->emptying ? 0 : level->cookie, SEEK_SET) < 0) return close(fd), false;
  level->fd = fd;
  size_t slot = (size_t)(level - walk->levels) % HELD;
  walk->held[slot].at = walk->held[slot].end = 0;
  return true;
}

static enum walked leave(struct walk *walk) {
  struct level *level = &walk->levels[walk->depth - 1];
  if (walk->depth == 1) return WALK_END;
  if (level[-1].fd < 0 && !reopen(walk, level - 1, level->fd)) return WALK_FAILED;
  close(level->fd);
  walk->depth--;
  walk->path[level->length] = 0;
  walk->name = walk->path + level[-1].length + (level[-1].length > 0);
  walk->type = 4 /* DT_DIR */;
  return WALK_LEFT;
}

/* The next entry of the directory, or, after its last, that it was left: the entry is then the directory itself. */
enum walked walk_next(struct walk *walk) {
  struct level *level = &walk->levels[walk->depth - 1];
  size_t slot = (walk->depth - 1) % HELD;
  if (level->skipped) return leave(walk);
  for (;;) {
    if (walk->held[slot].at >= walk->held[slot].end) {
      long n = syscall(SYS_getdents64, level->fd, walk->buffers[slot], sizeof walk->buffers[slot]);
      if (n < 0 && errno != ENOENT) return WALK_FAILED; /* ENOENT: it was removed meanwhile */
      if (n <= 0) return leave(walk);
      walk->held[slot].at = 0;
      walk->held[slot].end = (int)n;
    }
    struct entry64 *entry = (void *)(walk->buffers[slot] + walk->held[slot].at);
    walk->held[slot].at += entry->bytes;
    level->cookie = entry->off;
    if (!strcmp(entry->name, ".") || !strcmp(entry->name, "..")) continue;
    size_t length = strlen(entry->name);
    char *path = grown(walk->path, &walk->path_room, level->length + length + 2, 1);
    if (!path) return errno = ENOMEM, WALK_FAILED;
    walk->path = path;
    walk->name = path + level->length + (level->length > 0);
    if (level->length) path[level->length] = '/';
    memcpy(walk->name, entry->name, length + 1);
    walk->type = entry->type;
    return WALK_ENTRY;
  }
}
