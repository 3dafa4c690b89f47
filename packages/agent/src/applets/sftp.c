/*
 * sftp [DIRECTORY]: a server of SFTP version 3 on the standard streams, as sshd starts one; it begins in DIRECTORY, or
 * in HOME. Requests are answered in order. The arguments of SYMLINK are in OpenSSH's order; the draft's is the other way.
 */
#include "sftp.h"
#include <dirent.h>
#include <limits.h>

enum { NAMES_MAX = 100 /* in one answer to READDIR */ };

static struct handle { DIR *directory; int fd; bool append, used; uint32_t serial; } handles[SFTP_HANDLES_MAX];
static uint32_t last_serial;
static char path[PATH_BYTES_MAX + 1], other[PATH_BYTES_MAX + 1];

/* A handle's name is its slot and how many were opened before it: one that was closed is never taken for another. */
static struct handle *handle_find(struct text text) {
  if (text.length != 8) return NULL;
  struct handle *handle = &handles[get32(text.at) % SFTP_HANDLES_MAX];
  return handle->used && get32(text.at) < SFTP_HANDLES_MAX && get32(text.at + 4) == handle->serial ? handle : NULL;
}

static struct handle *handle_free(void) {
  for (size_t i = 0; i < SFTP_HANDLES_MAX; i++)
    if (!handles[i].used) return &handles[i];
  return NULL;
}

static void handle_answer(uint32_t id, struct handle *handle, struct handle value) {
  uint8_t name[8];
  *handle = value;
  handle->used = true;
  handle->serial = ++last_serial;
  put32(name, (uint32_t)(handle - handles));
  put32(name + 4, handle->serial);
  sftp_begin(FXP_HANDLE, id);
  sftp_put_bytes(name, sizeof name);
  sftp_end();
}

static int handle_close(struct handle *handle) {
  if (!handle) return EBADF;
  int result = handle->directory ? closedir(handle->directory) : close(handle->fd), error = result < 0 ? errno : 0;
  *handle = (struct handle){ 0 };
  return error;
}

int sftp_file(struct text text) {
  struct handle *handle = handle_find(text);
  return handle && !handle->directory ? handle->fd : -1;
}

static void do_open(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  uint32_t wanted = sftp_take32(in);
  struct sftp_attributes attributes = sftp_take_attributes(in);
  struct handle *handle = handle_free();
  struct stat stat;
  if (in->bad) return sftp_error(id, EINVAL);
  if (!handle) return sftp_error(id, EMFILE);
  int flags = (wanted & 3) == 3 ? O_RDWR : wanted & 2 ? O_WRONLY : O_RDONLY;
  if (wanted & 4) flags |= O_APPEND;
  if (wanted & 8) flags |= O_CREAT | (wanted & 16 ? O_TRUNC : 0) | (wanted & 32 ? O_EXCL : 0);
  else if (wanted & 16) flags |= O_TRUNC;
  mode_t mode = attributes.flags & ATTR_MODE ? attributes.mode & 0777 : 0666;
  int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, mode); /* a FIFO is not waited for */
  if (fd < 0) return sftp_error(id, errno);
  if (fstat(fd, &stat) < 0 || !(S_ISREG(stat.st_mode) || S_ISCHR(stat.st_mode) || S_ISBLK(stat.st_mode))) {
    bool directory = S_ISDIR(stat.st_mode);
    close(fd);
    return sftp_error(id, directory ? EISDIR : EOPNOTSUPP);
  }
  handle_answer(id, handle, (struct handle){ .fd = fd, .append = wanted & 4 });
}

static void do_opendir(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  struct handle *handle = handle_free();
  if (in->bad || !handle) return sftp_error(id, in->bad ? EINVAL : EMFILE);
  DIR *directory = opendir(path);
  if (!directory) return sftp_error(id, errno);
  handle_answer(id, handle, (struct handle){ .directory = directory, .fd = dirfd(directory) });
}

static void do_read(uint32_t id, struct sftp_in *in) {
  struct handle *handle = handle_find(sftp_take_text(in));
  uint64_t offset = sftp_take64(in);
  uint32_t length = sftp_take32(in);
  if (in->bad || !handle || handle->directory) return sftp_error(id, in->bad ? EINVAL : EBADF);
  if (length > SFTP_DATA_BYTES_MAX) length = SFTP_DATA_BYTES_MAX;
  static uint8_t data[SFTP_DATA_BYTES_MAX];
  if (offset > INT64_MAX) return sftp_status(id, FX_EOF, "End of file");
  ssize_t n = pread(handle->fd, data, length, (off_t)offset);
  if (n < 0) return sftp_error(id, errno);
  if (n == 0 && length) return sftp_status(id, FX_EOF, "End of file");
  sftp_begin(FXP_DATA, id);
  sftp_put_bytes(data, (size_t)n);
  sftp_end();
}

static void do_write(uint32_t id, struct sftp_in *in) {
  struct handle *handle = handle_find(sftp_take_text(in));
  uint64_t offset = sftp_take64(in);
  struct text data = sftp_take_text(in);
  if (in->bad || !handle || handle->directory) return sftp_error(id, in->bad ? EINVAL : EBADF);
  if (offset > (uint64_t)INT64_MAX - data.length) return sftp_error(id, EFBIG);
  for (size_t done = 0; done < data.length;) {
    ssize_t n = handle->append ? write(handle->fd, data.at + done, data.length - done)
                               : pwrite(handle->fd, data.at + done, data.length - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return sftp_error(id, n < 0 ? errno : EIO);
    done += (size_t)n;
  }
  sftp_error(id, 0);
}

static void answer_attributes(uint32_t id, int result, const struct stat *stat) {
  if (result < 0) return sftp_error(id, errno);
  sftp_begin(FXP_ATTRS, id);
  sftp_put_attributes(stat);
  sftp_end();
}

static void do_stat(uint32_t id, struct sftp_in *in, int flags) {
  struct stat stat;
  sftp_take_path(in, path);
  if (in->bad) return sftp_error(id, EINVAL);
  answer_attributes(id, fstatat(AT_FDCWD, path, &stat, flags), &stat);
}

static void do_fstat(uint32_t id, struct sftp_in *in) {
  struct stat stat;
  struct handle *handle = handle_find(sftp_take_text(in));
  if (in->bad || !handle) return sftp_error(id, in->bad ? EINVAL : EBADF);
  answer_attributes(id, fstat(handle->fd, &stat), &stat);
}

static void do_setstat(uint32_t id, struct sftp_in *in, bool by_handle) {
  struct handle *handle = by_handle ? handle_find(sftp_take_text(in)) : NULL;
  if (!by_handle) sftp_take_path(in, path);
  struct sftp_attributes attributes = sftp_take_attributes(in);
  if (in->bad || (by_handle && !handle)) return sftp_error(id, in->bad ? EINVAL : EBADF);
  sftp_error(id, sftp_set_attributes(handle ? handle->fd : -1, path, &attributes, 0));
}

static void do_readdir(uint32_t id, struct sftp_in *in) {
  struct handle *handle = handle_find(sftp_take_text(in));
  struct dirent *entry;
  struct stat stat;
  uint32_t count = 0;
  if (in->bad || !handle || !handle->directory) return sftp_error(id, in->bad ? EINVAL : EBADF);
  sftp_begin(FXP_NAME, id);
  uint8_t *at = sftp_put_space(4);
  errno = 0;
  while (count < NAMES_MAX && (entry = readdir(handle->directory))) {
    if (fstatat(handle->fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0) continue;
    sftp_put_name(entry->d_name, &stat);
    count++;
  }
  if (!count) return sftp_cancel(), sftp_status(id, FX_EOF, "End of file");
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(count >> (24 - 8 * i));
  sftp_end();
}

/* Absolute, without links, `.` and `..`; the last part need not be there. */
bool sftp_real_path(const char *from, char *to) {
  char found[PATH_MAX], parent[PATH_BYTES_MAX + 1];
  if (realpath(from, found)) return strcpy(to, found), true;
  if (errno != ENOENT) return false;
  strcpy(parent, from);
  size_t length = strlen(parent);
  while (length > 1 && parent[length - 1] == '/') parent[--length] = 0;
  char *slash = strrchr(parent, '/');
  const char *name = slash ? slash + 1 : parent;
  char last[NAME_MAX + 1];
  if (strlen(name) > NAME_MAX) return errno = ENAMETOOLONG, false;
  strcpy(last, name);
  if (slash) slash[slash == parent] = 0;
  if (!realpath(slash ? parent : ".", found)) return false;
  if (!strcmp(last, "..") || strlen(found) + strlen(last) + 1 > PATH_BYTES_MAX) return errno = ENOENT, false;
  sprintf(to, "%s/%s", strcmp(found, "/") ? found : "", last);
  return true;
}

static void do_realpath(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  if (in->bad) return sftp_error(id, EINVAL);
  if (!sftp_real_path(path, other)) return sftp_error(id, errno);
  sftp_answer_name(id, other);
}

static void do_readlink(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  if (in->bad) return sftp_error(id, EINVAL);
  ssize_t n = readlink(path, other, sizeof other - 1);
  if (n < 0) return sftp_error(id, errno);
  other[n] = 0;
  sftp_answer_name(id, other);
}

/* Version 3 never replaces what has the new name. */
static int rename_beside(void) {
  struct stat stat;
  if (renameat2(AT_FDCWD, path, AT_FDCWD, other, 1 /* RENAME_NOREPLACE */) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  if (lstat(other, &stat) == 0) return EEXIST;
  return rename(path, other) < 0 ? errno : 0;
}

static void do_path(uint8_t type, uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  struct sftp_attributes attributes = { 0 };
  if (type == FXP_MKDIR) attributes = sftp_take_attributes(in);
  if (type == FXP_RENAME || type == FXP_SYMLINK) sftp_take_path(in, other);
  if (in->bad) return sftp_error(id, EINVAL);
  int result = 0;
  if (type == FXP_REMOVE) result = unlink(path);
  else if (type == FXP_RMDIR) result = rmdir(path);
  else if (type == FXP_MKDIR) result = mkdir(path, attributes.flags & ATTR_MODE ? attributes.mode & 07777 : 0777);
  else if (type == FXP_SYMLINK) result = symlink(path, other);
  else return sftp_error(id, rename_beside());
  sftp_error(id, result < 0 ? errno : 0);
}

static void dispatch(uint8_t type, uint32_t id, struct sftp_in *in) {
  switch (type) {
  case FXP_OPEN: return do_open(id, in);
  case FXP_CLOSE: return sftp_error(id, handle_close(handle_find(sftp_take_text(in))));
  case FXP_READ: return do_read(id, in);
  case FXP_WRITE: return do_write(id, in);
  case FXP_LSTAT: return do_stat(id, in, AT_SYMLINK_NOFOLLOW);
  case FXP_STAT: return do_stat(id, in, 0);
  case FXP_FSTAT: return do_fstat(id, in);
  case FXP_SETSTAT: return do_setstat(id, in, false);
  case FXP_FSETSTAT: return do_setstat(id, in, true);
  case FXP_OPENDIR: return do_opendir(id, in);
  case FXP_READDIR: return do_readdir(id, in);
  case FXP_REALPATH: return do_realpath(id, in);
  case FXP_READLINK: return do_readlink(id, in);
  case FXP_REMOVE: case FXP_RMDIR: case FXP_MKDIR: case FXP_RENAME: case FXP_SYMLINK: return do_path(type, id, in);
  case FXP_EXTENDED: return sftp_extended(id, in);
  default: return sftp_status(id, FX_OP_UNSUPPORTED, "Unknown request");
  }
}

static bool serve(void) {
  struct sftp_in in;
  for (bool greeted = false; sftp_receive(&in);) {
    uint8_t type = *in.at++;
    uint32_t id = sftp_take32(&in); /* of INIT, the client's version */
    if (in.bad || greeted != (type != FXP_INIT)) return false;
    if (greeted) dispatch(type, id, &in);
    else sftp_begin(FXP_VERSION, 3), sftp_put_extensions(), sftp_end();
    greeted = true;
  }
  return true;
}

int applet_sftp(int argc, char **argv) {
  const char *home = argc ? argv[0] : getenv("HOME");
  if (home && chdir(home) < 0 && argc) return no(home, errno);
  last_serial = 0;
  bool clean = serve();
  clean = sftp_flush() && clean;
  for (size_t i = 0; i < SFTP_HANDLES_MAX; i++)
    if (handles[i].used) handle_close(&handles[i]);
  return clean ? DONE : NO;
}
