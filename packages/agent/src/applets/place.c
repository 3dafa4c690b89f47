/*
 * Where entries of an archive go. The directories from the root to the last entry are a stack of descriptors, each
 * opened in the one above and through no link, so that no path leads out, whatever is moved meanwhile; a directory gets
 * its mode and times when it is left, after its content. Only the deepest are held open, as in walk.c.
 */
#include "applets.h"

enum { HELD = 32, DEPTH_MAX = 1 << 18 };
struct spot { int fd; dev_t dev; ino_t ino; size_t length; bool pending; struct attributes attributes; };

/* Ids that the sandbox does not have stay those of whoever unpacks. */
static bool owned(int result) { return result == 0 || errno == EINVAL || errno == EOVERFLOW; }

bool attributes_apply(int fd, const struct attributes *attributes) {
  struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, attributes->modified };
  if (attributes->owner && !owned(fchown(fd, attributes->uid, attributes->gid))) return false;
  return fchmod(fd, attributes->mode) == 0 && futimens(fd, times) == 0;
}

/* Of what cannot be opened, a link for one: it has no mode of its own. */
bool attributes_apply_at(int dir, const char *name, const struct attributes *attributes) {
  struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, attributes->modified };
  if (attributes->owner && !owned(fchownat(dir, name, attributes->uid, attributes->gid, AT_SYMLINK_NOFOLLOW)))
    return false;
  return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool push(struct place *place, int fd, const char *name) {
  struct stat stat;
  size_t length = strlen(name), begin = place->path_length + (place->path_length > 0);
  if (fd < 0) return false;
  if (place->depth == place->spots_room) {
    size_t room = place->spots_room ? place->spots_room * 2 : 64;
    struct spot *spots = place->depth < DEPTH_MAX ? realloc(place->spots, room * sizeof *spots) : NULL;
    if (!spots) return close(fd), errno = ENAMETOOLONG, false;
    place->spots = spots;
    place->spots_room = room;
  }
  if (begin + length + 1 > place->path_room) {
    char *path = realloc(place->path, (begin + length + 1) * 2);
    if (!path) return close(fd), errno = ENOMEM, false;
    place->path = path;
    place->path_room = (begin + length + 1) * 2;
  }
  if (fstat(fd, &stat) < 0) return close(fd), false;
  if (place->depth >= HELD) {
    struct spot *far = &place->spots[place->depth - HELD];
    if (far->fd >= 0) close(far->fd);
    far->fd = -1;
  }
  if (begin) place->path[begin - 1] = '/';
  memcpy(place->path + begin, name, length + 1);
  place->path_length = begin + length;
  struct spot spot = { .fd = fd, .dev = stat.st_dev, .ino = stat.st_ino, .length = place->path_length };
  place->spots[place->depth++] = spot;
  return true;
}

static bool pop(struct place *place) {
  struct spot *spot = &place->spots[place->depth - 1];
  struct stat stat;
  if (place->depth > 1 && spot[-1].fd < 0) {
    int fd = openat(spot->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    spot[-1].fd = fd; /* closed with the place, whatever it is */
    if (fstat(fd, &stat) < 0) return false;
    if (stat.st_dev != spot[-1].dev || stat.st_ino != spot[-1].ino) return errno = ESTALE, false;
  }
  bool applied = !spot->pending || attributes_apply(spot->fd, &spot->attributes);
  int error = errno;
  close(spot->fd);
  place->depth--;
  place->path_length = place->depth ? spot[-1].length : 0;
  return errno = error, applied;
}

/* Takes the descriptor of the root over. */
bool place_begin(struct place *place, int root) {
  memset(place, 0, sizeof *place);
  place->root = root < 0 ? -1 : fcntl(root, F_DUPFD_CLOEXEC, 3);
  return push(place, root, "") && place->root >= 0;
}

bool place_end(struct place *place) {
  bool applied = true;
  int error = 0;
  while (place->depth && applied)
    if (!(applied = pop(place))) error = errno;
  for (size_t i = 0; i < place->depth; i++)
    if (place->spots[i].fd >= 0) close(place->spots[i].fd);
  if (place->root >= 0) close(place->root);
  free(place->spots);
  free(place->path);
  memset(place, 0, sizeof *place);
  place->root = -1;
  return errno = error, applied;
}

/* The next part of a path, ended in place; NULL at its end. */
static char *next_part(char **rest) {
  for (char *part; (part = strsep(rest, "/"));)
    if (*part && strcmp(part, ".") != 0) return part;
  return NULL;
}

static bool leaves(const char *path) {
  for (const char *at = path, *end; *at; at = *end ? end + 1 : end) {
    end = strchrnul(at, '/');
    if (end - at == 2 && at[0] == '.' && at[1] == '.') return true;
  }
  return *path == '/';
}

static bool same_part(const struct place *place, size_t depth, const char *part) {
  size_t begin = place->spots[depth - 1].length + (depth > 1), length = strlen(part);
  return depth < place->depth && place->spots[depth].length - begin == length &&
         !memcmp(place->path + begin, part, length);
}

static bool go_down(struct place *place, const char *part) {
  int at = place->spots[place->depth - 1].fd, flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int fd = openat(at, part, flags);
  if (fd < 0 && errno == ENOENT && (mkdirat(at, part, 0755) == 0 || errno == EEXIST)) fd = openat(at, part, flags);
  return push(place, fd, part);
}

/* Goes to the directory of an entry, made where it is not there. Gives the entry's name in it, "" for the root itself,
   or NULL: with errno EXDEV for a path that leaves the root. Writes on `path`. */
char *place_find(struct place *place, char *path, int *dir) {
  if (leaves(path)) return errno = EXDEV, NULL;
  char *rest = path, *name = next_part(&rest), *next;
  size_t depth = 1;
  for (; name && (next = next_part(&rest)); name = next, depth++) {
    if (same_part(place, depth, name)) continue;
    while (place->depth > depth)
      if (!pop(place)) return NULL;
    if (!go_down(place, name)) return NULL;
  }
  while (place->depth > depth)
    if (!pop(place)) return NULL;
  *dir = place->spots[depth - 1].fd;
  return name ? name : strcpy(path, "");
}

/* The entry that was found is a directory: made, gone into, and given its attributes when it is left. */
bool place_directory(struct place *place, const char *name, const struct attributes *attributes) {
  if (!go_down(place, name)) return false;
  struct spot *spot = &place->spots[place->depth - 1];
  spot->attributes = *attributes;
  spot->pending = true;
  return true;
}

/* The root itself gets attributes, at the end. */
void place_root(struct place *place, const struct attributes *attributes) {
  place->spots[0].attributes = *attributes;
  place->spots[0].pending = true;
}

/* The directory of an earlier entry, and its name in it: -1 with errno when there is none. Writes on `path`. */
int place_lookup(const struct place *place, char *path, char **name) {
  if (leaves(path)) return errno = EXDEV, -1;
  char *rest = path, *next;
  int fd = fcntl(place->root, F_DUPFD_CLOEXEC, 3);
  *name = next_part(&rest);
  while (fd >= 0 && *name && (next = next_part(&rest))) {
    int child = openat(fd, *name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), error = errno;
    close(fd);
    errno = error;
    fd = child;
    *name = next;
  }
  if (fd >= 0 && !*name) return close(fd), errno = EXDEV, -1;
  return fd;
}
