/* What the applets share: words for errors, output in large pieces, records, holes. */
#include "applets.h"

static uint8_t out[OUT_BYTES];
static size_t out_length;

int no(const char *path, int error) {
  dprintf(2, "%s: %.600s\n", strerrordesc_np(error), path);
  return error == ENOENT || error == ENOTDIR ? NOT_FOUND : NO;
}

bool write_all(int fd, const void *data, size_t length) {
  for (const uint8_t *at = data; length;) {
    ssize_t n = write(fd, at, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, length -= (size_t)n;
  }
  return true;
}

bool out_flush(void) {
  size_t length = out_length;
  out_length = 0;
  return write_all(1, out, length);
}

bool out_bytes(const void *data, size_t length) {
  if (out_length + length > sizeof out && !out_flush()) return false;
  if (length > sizeof out) return write_all(1, data, length);
  memcpy(out + out_length, data, length);
  out_length += length;
  return true;
}

static char letter(mode_t mode) {
  static const char letters[16] = "?pc?d?c?f?l?s???";
  return letters[mode >> 12 & 15];
}

bool out_record(const char *name, const struct stat *stat, const char *target) {
  char head[160];
  int length = snprintf(head, sizeof head, "%c %o %u %u %lld %lld.%09ld", letter(stat->st_mode), stat->st_mode & 07777,
                        stat->st_uid, stat->st_gid, (long long)stat->st_size, (long long)stat->st_mtim.tv_sec,
                        stat->st_mtim.tv_nsec);
  return out_bytes(head, (size_t)length + 1) && out_bytes(name, strlen(name) + 1) &&
         out_bytes(target, strlen(target) + 1);
}

/* At an offset of a file where nothing is yet: whole blocks of zeros are left out, and stay holes. */
bool write_sparse(int fd, const uint8_t *data, size_t length, off_t at) {
  size_t done = 0, begin = 0;
  while (done <= length) {
    size_t step = HOLE_BYTES - (size_t)(at + (off_t)done) % HOLE_BYTES, left = length - done;
    bool hole = step == HOLE_BYTES && left >= step && !data[done] && !memcmp(data + done, data + done + 1, step - 1);
    while ((hole || !left) && begin < done) {
      ssize_t n = pwrite(fd, data + begin, done - begin, at + (off_t)begin);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      begin += (size_t)n;
    }
    if (!left) return true;
    done += step < left ? step : left;
    if (hole) begin = done;
  }
  return true;
}

bool to_number(const char *text, int base, uint64_t max, uint64_t *value) {
  char *end;
  errno = 0;
  unsigned long long sum = strtoull(text, &end, base);
  if (*text < '0' || *text > '9' || *end || errno || sum > max) return errno = EINVAL, false;
  *value = sum;
  return true;
}

/* `uid:gid`. */
bool to_owner(const char *text, uid_t *uid, gid_t *gid) {
  char copy[32], *colon;
  uint64_t user, group;
  if (strlen(text) >= sizeof copy || !(colon = strchr(strcpy(copy, text), ':'))) return errno = EINVAL, false;
  *colon = 0;
  if (!to_number(copy, 10, UINT32_MAX - 1, &user) || !to_number(colon + 1, 10, UINT32_MAX - 1, &group)) return false;
  *uid = (uid_t)user;
  *gid = (gid_t)group;
  return true;
}
