/* Packets of SFTP in and out, and the attributes in them. */
#include "sftp.h"
#include <time.h>

static uint8_t in[SFTP_PACKET_BYTES_MAX + 4], out[2 * SFTP_PACKET_BYTES_MAX];
static size_t in_at, in_end, out_begin, out_end;

static uint32_t get(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}
static void set(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

bool sftp_receive(struct sftp_in *packet) {
  size_t length = 0;
  for (;;) {
    if (in_end - in_at >= 4) {
      length = get(in + in_at);
      if (!length || length > SFTP_PACKET_BYTES_MAX) return in_at = in_end = 0, false;
      if (in_end - in_at >= 4 + length) break;
    }
    if (!sftp_flush()) return false; /* whoever waits for answers sends no more */
    memmove(in, in + in_at, in_end - in_at);
    in_end -= in_at, in_at = 0;
    ssize_t n = read(0, in + in_end, sizeof in - in_end);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return in_at = in_end = 0, false;
    in_end += (size_t)n;
  }
  *packet = (struct sftp_in){ in + in_at + 4, in + in_at + 4 + length, false };
  in_at += 4 + length;
  return true;
}

uint32_t sftp_take32(struct sftp_in *from) {
  if (from->end - from->at < 4) return from->bad = true, 0;
  from->at += 4;
  return get(from->at - 4);
}

uint64_t sftp_take64(struct sftp_in *from) {
  uint64_t high = sftp_take32(from);
  return high << 32 | sftp_take32(from);
}

struct text sftp_take_text(struct sftp_in *from) {
  uint32_t length = sftp_take32(from);
  if (from->bad || (size_t)(from->end - from->at) < length) return from->bad = true, (struct text){ from->end, 0 };
  from->at += length;
  return (struct text){ from->at - length, length };
}

void sftp_take_path(struct sftp_in *from, char *to) {
  struct text text = sftp_take_text(from);
  if (text.length > PATH_BYTES_MAX || memchr(text.at, 0, text.length)) from->bad = true;
  if (from->bad) text.length = 0;
  memcpy(to, text.at, text.length);
  strcpy(to + text.length, text.length ? "" : ".");
}

struct sftp_attributes sftp_take_attributes(struct sftp_in *from) {
  struct sftp_attributes attributes = { .flags = sftp_take32(from) };
  if (attributes.flags & ATTR_SIZE) attributes.size = sftp_take64(from);
  if (attributes.flags & ATTR_OWNER) attributes.uid = sftp_take32(from), attributes.gid = sftp_take32(from);
  if (attributes.flags & ATTR_MODE) attributes.mode = sftp_take32(from);
  if (attributes.flags & ATTR_TIMES) attributes.accessed = sftp_take32(from), attributes.modified = sftp_take32(from);
  if (attributes.flags & ATTR_EXTENDED)
    for (uint32_t count = sftp_take32(from); count && !from->bad; count--) sftp_take_text(from), sftp_take_text(from);
  return attributes;
}

int sftp_set_attributes(int fd, const char *path, const struct sftp_attributes *attributes, int at_flags) {
  mode_t mode = attributes->mode & 07777;
  struct timespec times[2] = { { .tv_sec = attributes->accessed }, { .tv_sec = attributes->modified } };
  bool open = fd >= 0;
  if (attributes->flags & ATTR_SIZE) {
    if (attributes->size > INT64_MAX || at_flags) return EINVAL;
    if ((open ? ftruncate(fd, (off_t)attributes->size) : truncate(path, (off_t)attributes->size)) < 0) return errno;
  }
  /* The owner before the mode: giving a file away takes bits of it. */
  if (attributes->flags & ATTR_OWNER &&
      (open ? fchown(fd, attributes->uid, attributes->gid)
            : fchownat(AT_FDCWD, path, attributes->uid, attributes->gid, at_flags)) < 0) return errno;
  if (attributes->flags & ATTR_MODE && (open ? fchmod(fd, mode) : fchmodat(AT_FDCWD, path, mode, at_flags)) < 0)
    return errno;
  if (attributes->flags & ATTR_TIMES && (open ? futimens(fd, times) : utimensat(AT_FDCWD, path, times, at_flags)) < 0)
    return errno;
  return 0;
}

bool sftp_flush(void) {
  size_t length = out_end;
  out_begin = out_end = 0;
  return write_all(1, out, length);
}

/* There is room for one answer of any size then; what cannot be written shows itself at the next flush. */
void sftp_begin(uint8_t type, uint32_t id) {
  if (sizeof out - out_end < SFTP_PACKET_BYTES_MAX + 4) sftp_flush();
  out_begin = out_end;
  out_end += 4;
  out[out_end++] = type;
  sftp_put32(id);
}

void sftp_end(void) { set(out + out_begin, (uint32_t)(out_end - out_begin - 4)); }

/* What was begun is not said. */
void sftp_cancel(void) { out_end = out_begin; }

size_t sftp_room(void) { return SFTP_PACKET_BYTES_MAX + 4 - (out_end - out_begin); }

uint8_t *sftp_put_space(size_t length) {
  if (length > sftp_room()) abort(); /* every answer is bounded by its maker */
  out_end += length;
  return out + out_end - length;
}

void sftp_put32(uint32_t value) { set(sftp_put_space(4), value); }

void sftp_put64(uint64_t value) { sftp_put32((uint32_t)(value >> 32)), sftp_put32((uint32_t)value); }

void sftp_put_bytes(const void *data, size_t length) {
  sftp_put32((uint32_t)length);
  if (length) memcpy(sftp_put_space(length), data, length);
}

void sftp_put_text(const char *text) { sftp_put_bytes(text, strlen(text)); }

void sftp_put_attributes(const struct stat *stat) {
  sftp_put32(ATTR_SIZE | ATTR_OWNER | ATTR_MODE | ATTR_TIMES);
  sftp_put64((uint64_t)stat->st_size);
  sftp_put32(stat->st_uid);
  sftp_put32(stat->st_gid);
  sftp_put32(stat->st_mode);
  sftp_put32((uint32_t)stat->st_atim.tv_sec);
  sftp_put32((uint32_t)stat->st_mtim.tv_sec);
}

/* As `ls -l` has it; owners as numbers, since whose they are is the sandbox's business. */
static void long_name(char *to, size_t size, const char *name, const struct stat *stat) {
  static const char kinds[16] = "?pc?d?b?-?l?s???", all[] = "rwxrwxrwx";
  char mode[11] = "", when[32] = "?";
  struct tm tm;
  time_t now = time(NULL), modified = stat->st_mtim.tv_sec;
  mode[0] = kinds[stat->st_mode >> 12 & 15];
  for (int i = 0; i < 9; i++) mode[1 + i] = stat->st_mode & (0400 >> i) ? all[i] : '-';
  if (stat->st_mode & S_ISUID) mode[3] = stat->st_mode & 0100 ? 's' : 'S';
  if (stat->st_mode & S_ISGID) mode[6] = stat->st_mode & 010 ? 's' : 'S';
  if (stat->st_mode & S_ISVTX) mode[9] = stat->st_mode & 1 ? 't' : 'T';
  bool recent = modified <= now && modified > now - 183 * 86400;
  if (gmtime_r(&modified, &tm)) strftime(when, sizeof when, recent ? "%b %e %H:%M" : "%b %e  %Y", &tm);
  snprintf(to, size, "%s %4u %-8u %-8u %8llu %-12s %s", mode, (unsigned)stat->st_nlink, stat->st_uid, stat->st_gid,
           (unsigned long long)stat->st_size, when, name);
}

void sftp_put_name(const char *name, const struct stat *stat) {
  char text[PATH_BYTES_MAX + 160];
  long_name(text, sizeof text, name, stat);
  sftp_put_text(name);
  sftp_put_text(text);
  sftp_put_attributes(stat);
}

void sftp_status(uint32_t id, enum sftp_status status, const char *message) {
  sftp_begin(FXP_STATUS, id);
  sftp_put32(status);
  sftp_put_text(message);
  sftp_put_text("");
  sftp_end();
}

void sftp_answer_name(uint32_t id, const char *name) {
  sftp_begin(FXP_NAME, id);
  sftp_put32(1);
  sftp_put_text(name);
  sftp_put_text(name);
  sftp_put32(0);
  sftp_end();
}

/* 0 is success. */
void sftp_error(uint32_t id, int error) {
  enum sftp_status status = FX_FAILURE;
  if (!error) status = FX_OK;
  else if (error == ENOENT || error == ENOTDIR || error == EBADF || error == ELOOP) status = FX_NO_SUCH_FILE;
  else if (error == EPERM || error == EACCES) status = FX_PERMISSION_DENIED;
  else if (error == ENAMETOOLONG || error == EINVAL) status = FX_BAD_MESSAGE;
  else if (error == ENOSYS) status = FX_OP_UNSUPPORTED;
  sftp_status(id, status, strerrordesc_np(error));
}
