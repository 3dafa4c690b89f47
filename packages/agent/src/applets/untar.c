/*
 * untar PATH: a tar archive from standard input (ustar, pax, GNU), unpacked below a directory that is made. An entry
 * that would leave it ends the work; so does an archive that ends without its end mark. What was written before stays.
 */
#include "tar-header.h"

enum { IN_BYTES = BLOCK_BYTES, REASON_BYTES = 512 };

struct entry {
  char *path, *link; /* of a pax header or a GNU long name; else NULL */
  bool sized, timed, has_uid, has_gid, sparse;
  uint64_t size, uid, gid;
  struct timespec modified;
};

static struct {
  uint8_t in[IN_BYTES], block[BLOCK_BYTES];
  size_t at, end;
  struct entry all, next; /* what holds for all that follows, and for the next entry alone */
  uint64_t files, bytes, skipped;
  char reason[REASON_BYTES]; /* the archive's fault */
  bool root, made; /* who unpacks; whether the directory is new */
} un;

static bool bad(const char *reason) {
  snprintf(un.reason, sizeof un.reason, "%s", reason);
  return errno = EBADMSG, false;
}

/* At least one byte of input, and no more than `most`, where it lies; NULL at its end. */
static const uint8_t *take(size_t most, size_t *length) {
  while (un.at == un.end) {
    ssize_t n = read(0, un.in, sizeof un.in);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return bad("the archive ends before its end"), NULL;
    un.at = 0;
    un.end = (size_t)n;
  }
  const uint8_t *data = un.in + un.at;
  *length = un.end - un.at < most ? un.end - un.at : most;
  un.at += *length;
  return data;
}

static bool take_all(void *to, size_t length) {
  for (size_t done = 0, n; done < length; done += n) {
    const uint8_t *data = take(length - done, &n);
    if (!data) return false;
    memcpy((uint8_t *)to + done, data, n);
  }
  return true;
}

static bool pass_over(uint64_t length) {
  for (size_t n; length; length -= n)
    if (!take(length < IN_BYTES ? (size_t)length : IN_BYTES, &n)) return false;
  return true;
}

static uint64_t padding(uint64_t length) { return -length % TAR_BLOCK; }

/* Octal digits, or the number in binary where the first bit is set (GNU); negative ones are told by `negative`. */
static bool number(const char *field, size_t size, uint64_t *value, bool *negative) {
  const uint8_t *at = (const uint8_t *)field, *end = at + size;
  uint64_t sum = 0;
  *negative = false;
  if (*at & 0x80) {
    *negative = *at & 0x40;
    sum = *negative ? ~0ULL << 6 | (*at & 0x3f) : *at & 0x3f;
    while (++at < end) {
      if (*negative ? sum >> 55 != 0x1ff : sum >> 55) return false;
      sum = sum << 8 | *at;
    }
    *value = *negative ? -sum : sum;
    return true;
  }
  while (at < end && *at == ' ') at++;
  for (; at < end && *at >= '0' && *at <= '7'; at++) {
    if (sum >> 60) return false;
    sum = sum << 3 | (uint64_t)(*at - '0');
  }
  *value = sum;
  return at == end || !*at || *at == ' ';
}

static bool checksum_holds(const struct tar_header *header) {
  const int8_t *bytes = (const int8_t *)header;
  uint64_t wanted;
  bool negative;
  int sum = 0; /* old programs added signed bytes */
  for (size_t i = 0; i < TAR_BLOCK; i++)
    sum += i >= offsetof(struct tar_header, checksum) && i < offsetof(struct tar_header, type) ? ' ' : bytes[i];
  return number(header->checksum, sizeof header->checksum, &wanted, &negative) &&
         (wanted == tar_checksum(header) || (int64_t)wanted == sum);
}

static void set_text(char **field, const char *text) {
  free(*field);
  *field = *text ? strdup(text) : NULL;
}

/* Seconds with a fraction, as pax has them. */
static bool to_time(const char *text, struct timespec *time) {
  bool before = *text == '-';
  char *end;
  long ns = 0, unit = 100000000;
  errno = 0;
  long long seconds = strtoll(text + before, &end, 10);
  if (errno || end == text + before || text[before] < '0' || text[before] > '9') return false;
  if (*end == '.')
    for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10) ns += unit * (*end - '0');
  if (*end) return false;
  if (before) seconds = -seconds - (ns > 0), ns = ns ? 1000000000 - ns : 0;
  *time = (struct timespec){ .tv_sec = seconds, .tv_nsec = ns };
  return true;
}

static bool apply_record(struct entry *entry, const char *key, const char *value) {
  if (!strncmp(key, "GNU.sparse.", 11)) return entry->sparse = true;
  if (!strcmp(key, "path")) return set_text(&entry->path, value), true;
  if (!strcmp(key, "linkpath")) return set_text(&entry->link, value), true;
  if (!strcmp(key, "size")) return entry->sized = *value, !*value || to_number(value, 10, INT64_MAX, &entry->size);
  if (!strcmp(key, "uid")) return entry->has_uid = *value, !*value || to_number(value, 10, INT64_MAX, &entry->uid);
  if (!strcmp(key, "gid")) return entry->has_gid = *value, !*value || to_number(value, 10, INT64_MAX, &entry->gid);
  if (!strcmp(key, "mtime")) return entry->timed = *value, !*value || to_time(value, &entry->modified);
  return true;
}

/* `length key=value\n`, again and again. */
static bool apply_records(struct entry *entry, char *text, size_t length) {
  for (size_t at = 0, size; at < length; at += size) {
    size_t head = 0;
    for (size = 0; at + head < length && text[at + head] >= '0' && text[at + head] <= '9'; head++) {
      size = size * 10 + (size_t)(text[at + head] - '0');
      if (size > length - at) return bad("a pax record is longer than its header");
    }
    bool whole = head && size >= head + 3 && text[at + head] == ' ' && text[at + size - 1] == '\n';
    if (!whole) return bad("a pax record is broken");
    char *key = text + at + head + 1;
    text[at + size - 1] = 0;
    char *equals = memchr(key, '=', size - head - 1);
    if (!equals) return bad("a pax record has no value");
    *equals = 0;
    if (memchr(equals + 1, 0, (size_t)(text + at + size - 1 - (equals + 1)))) return bad("a pax record has a NUL byte");
    if (!apply_record(entry, key, equals + 1)) return bad("a pax record has a number that is none");
  }
  return true;
}

/* What follows a header of type x, g, L or K. */
static bool take_text(char type, uint64_t size) {
  if (size > TAR_TEXT_BYTES_MAX) return bad("a name or pax header is longer than 4 MiB");
  char *text = malloc((size_t)size + 1);
  bool done = text && take_all(text, (size_t)size) && pass_over(padding(size));
  if (done) text[size] = 0;
  if (done && type == 'L') set_text(&un.next.path, text);
  else if (done && type == 'K') set_text(&un.next.link, text);
  else if (done) done = apply_records(type == 'g' ? &un.all : &un.next, text, (size_t)size);
  free(text);
  return done;
}

static bool take_content(int fd, uint64_t size) {
  for (uint64_t at = 0; at < size;) {
    /* In whole blocks, so that holes are seen. */
    size_t want = size - at < sizeof un.block ? (size_t)(size - at) : sizeof un.block;
    if (!take_all(un.block, want) || !write_sparse(fd, un.block, want, (off_t)at)) return false;
    at += want;
  }
  return pass_over(padding(size)) && ftruncate(fd, (off_t)size) == 0;
}

/* Nothing that is there is written through: what has the name goes first. */
static bool make_way(int dir, const char *name) { return errno == EEXIST && unlinkat(dir, name, 0) == 0; }

/* All of the content is there before the file is. */
static bool put_small(int dir, const char *name, size_t size, const struct attributes *attributes) {
  int fd, flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  if (!take_all(un.block, size) || !pass_over(padding(size))) return false;
  while ((fd = openat(dir, name, flags, 0600)) < 0)
    if (!make_way(dir, name)) return false;
  bool done = write_sparse(fd, un.block, size, 0) && ftruncate(fd, (off_t)size) == 0;
  done = done && attributes_apply(fd, attributes);
  int error = errno;
  if (close(fd) < 0 && done) done = false, error = errno;
  if (!done) unlinkat(dir, name, 0);
  return errno = error, done;
}

static bool put_large(int dir, const char *name, uint64_t size, const struct attributes *attributes) {
  struct sink sink;
  struct stat stat;
  bool done = sink_open(&sink, dir) && take_content(sink.fd, size) && attributes_apply(sink.fd, attributes) &&
              sink_commit(&sink, name, fstatat(dir, name, &stat, AT_SYMLINK_NOFOLLOW) == 0);
  sink_drop(&sink);
  return done;
}

static bool put_file(int dir, const char *name, uint64_t size, const struct attributes *attributes) {
  bool small = size <= sizeof un.block;
  if (!(small ? put_small(dir, name, (size_t)size, attributes) : put_large(dir, name, size, attributes))) return false;
  un.files++;
  un.bytes += size;
  return true;
}

static bool is_same(int from, const char *source, int dir, const char *name) {
  struct stat one, other;
  if (fstatat(from, source, &one, AT_SYMLINK_NOFOLLOW) < 0) return false;
  if (fstatat(dir, name, &other, AT_SYMLINK_NOFOLLOW) < 0) return false;
  return one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

static bool put_link(struct place *place, int dir, const char *name, char *to) {
  char *source;
  int from = place_lookup(place, to, &source);
  if (from < 0) return false;
  bool done;
  while (!(done = linkat(from, source, dir, name, 0) == 0)) {
    int link_error = errno;
    done = link_error == EEXIST && is_same(from, source, dir, name); /* else a link to itself would take it away */
    errno = link_error;
    if (done || !make_way(dir, name)) break;
  }
  int error = errno;
  close(from);
  un.files += done;
  return errno = error, done;
}

static bool put_symlink(int dir, const char *name, const char *to, const struct attributes *attributes) {
  while (symlinkat(to, dir, name) < 0)
    if (!make_way(dir, name)) return false;
  un.files++;
  return attributes_apply_at(dir, name, attributes);
}

static bool put_fifo(int dir, const char *name, const struct attributes *attributes) {
  while (mkfifoat(dir, name, attributes->mode) < 0)
    if (!make_way(dir, name)) return false;
  un.files++;
  return attributes_apply_at(dir, name, attributes);
}

static bool put_entry(struct place *place, char type, char *path, char *link, uint64_t size,
                      const struct attributes *attributes) {
  int dir;
  size_t length = strlen(path);
  bool directory = type == '5' || ((type == '0' || !type) && length && path[length - 1] == '/');
  char *name = place_find(place, path, &dir);
  if (!name) return errno == EXDEV ? bad("an entry would leave the directory") : false;
  if (!*name && !directory) return bad("an entry has no name");
  if (!*name && un.made) place_root(place, attributes); /* a directory that was there stays as it is */
  if (!*name) return pass_over(size + padding(size));
  switch (type) {
  case '1':
    if (!*link) return bad("a link leads nowhere");
    return put_link(place, dir, name, link) || (errno == EXDEV && bad("a link would leave the directory"));
  case '2': return *link ? put_symlink(dir, name, link, attributes) : bad("a link leads nowhere");
  case '3': case '4': return un.skipped++, true;
  case '6': return put_fifo(dir, name, attributes);
  default:
    if (!directory) return put_file(dir, name, size, attributes);
    return place_directory(place, name, attributes) && pass_over(size + padding(size));
  }
}

/* The text of a field that may be full. */
static char *field_text(const char *prefix, size_t prefix_size, const char *field, size_t size) {
  size_t before = strnlen(prefix, prefix_size), length = strnlen(field, size);
  char *text = malloc(before + length + 2);
  if (!text) return NULL;
  memcpy(text, prefix, before);
  if (before) text[before++] = '/';
  memcpy(text + before, field, length);
  text[before + length] = 0;
  return text;
}

static bool take_entry(struct place *place, const struct tar_header *header, char **path) {
  struct attributes attributes = { .owner = un.root };
  uint64_t mode = 0, uid = 0, gid = 0, seconds = 0, size;
  bool negative, before = false;
  if (!number(header->size, sizeof header->size, &size, &negative) || negative || size > INT64_MAX - TAR_BLOCK)
    return bad("a size is none");
  if (header->type == 'x' || header->type == 'g' || header->type == 'L' || header->type == 'K')
    return take_text(header->type, size);
  const struct entry *own = &un.next, *all = &un.all;
  bool ustar = !memcmp(header->magic, "ustar", 6); /* GNU has other things than a prefix there */
  *path = own->path ? strdup(own->path)
                    : field_text(header->prefix, ustar ? sizeof header->prefix : 0, header->name, sizeof header->name);
  char *link = own->link ? strdup(own->link) : field_text("", 0, header->linkname, sizeof header->linkname);
  if (header->type == 'S' || own->sparse || all->sparse)
    return free(link), bad("sparse members of GNU tar are not read");
  if (own->sized) size = own->size;
  /* Links and the like have no content, whatever their size says. */
  if (header->type >= '1' && header->type <= '6' && header->type != '5') size = 0;
  bool read = number(header->mode, sizeof header->mode, &mode, &negative) && !negative &&
              number(header->uid, sizeof header->uid, &uid, &negative) && !negative &&
              number(header->gid, sizeof header->gid, &gid, &negative) && !negative &&
              number(header->mtime, sizeof header->mtime, &seconds, &before) && seconds <= INT64_MAX / 2 &&
              size <= INT64_MAX - TAR_BLOCK;
  attributes.modified = (struct timespec){ .tv_sec = before ? -(int64_t)seconds : (int64_t)seconds };
  if (own->timed || all->timed) attributes.modified = own->timed ? own->modified : all->modified;
  if (own->has_uid || all->has_uid) uid = own->has_uid ? own->uid : all->uid;
  if (own->has_gid || all->has_gid) gid = own->has_gid ? own->gid : all->gid;
  attributes.owner &= uid < UINT32_MAX && gid < UINT32_MAX;
  attributes.uid = (uid_t)uid;
  attributes.gid = (gid_t)gid;
  attributes.mode = (mode_t)mode & (attributes.owner ? 07777 : 01777);
  bool done = read ? *path && link && put_entry(place, header->type, *path, link, size, &attributes)
                   : bad("a number is none");
  free(link);
  free(un.next.path);
  free(un.next.link);
  memset(&un.next, 0, sizeof un.next);
  return done;
}

static bool take_archive(struct place *place, char **path) {
  static const uint8_t zeros[TAR_BLOCK];
  struct tar_header header;
  for (size_t n; take_all(&header, sizeof header);) {
    if (!memcmp(&header, zeros, TAR_BLOCK)) {
      if (!take_all(&header, sizeof header)) return false;
      if (memcmp(&header, zeros, TAR_BLOCK) != 0) return bad("a lone block of zeros");
      while (take(IN_BYTES, &n)); /* fill, up to a whole record of the writer's */
      return true;
    }
    if (!checksum_holds(&header)) return bad("this is no tar archive, or it is broken");
    free(*path);
    *path = NULL;
    if (!take_entry(place, &header, path)) return false;
  }
  return false;
}

int applet_untar(int argc, char **argv) {
  struct place place;
  char *path = NULL, counts[80];
  (void)argc;
  memset(&un, 0, sizeof un);
  un.root = geteuid() == 0;
  int made = make_directories(argv[0], 0755), root = open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  un.made = !made;
  if (root < 0) return no(argv[0], made && made != EEXIST && errno == ENOENT ? made : errno), NO;
  bool done = place_begin(&place, root) && take_archive(&place, &path);
  int error = errno, code = DONE;
  if (!place_end(&place) && done) done = false, error = errno;
  if (!done && un.reason[0]) code = BAD_ARCHIVE, dprintf(2, "%s: %.600s\n", un.reason, path ? path : "");
  else if (!done) code = NO, no(path ? path : argv[0], error);
  free(path);
  free(un.next.path), free(un.next.link), free(un.all.path), free(un.all.link);
  snprintf(counts, sizeof counts, "%llu %llu %llu\n", (unsigned long long)un.files, (unsigned long long)un.bytes,
           (unsigned long long)un.skipped);
  return out_bytes(counts, strlen(counts)) && out_flush() ? code : NO;
}
