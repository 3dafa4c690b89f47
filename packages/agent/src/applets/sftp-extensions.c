/* What OpenSSH adds to version 3 (its PROTOCOL file, section 4), as far as its own client and sshfs ask for it. */
#include "sftp.h"
#include <sys/statvfs.h>

static char path[PATH_BYTES_MAX + 1], other[PATH_BYTES_MAX + 1];

static void posix_rename(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  sftp_take_path(in, other);
  sftp_error(id, in->bad ? EINVAL : rename(path, other) < 0 ? errno : 0);
}

static void hard_link(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  sftp_take_path(in, other);
  sftp_error(id, in->bad ? EINVAL : link(path, other) < 0 ? errno : 0);
}

static void answer_statvfs(uint32_t id, int result, const struct statvfs *fs) {
  if (result < 0) return sftp_error(id, errno);
  uint64_t flags = (fs->f_flag & ST_RDONLY ? 1 : 0) | (fs->f_flag & ST_NOSUID ? 2 : 0);
  const uint64_t values[] = { fs->f_bsize, fs->f_frsize, fs->f_blocks, fs->f_bfree, fs->f_bavail, fs->f_files,
                              fs->f_ffree, fs->f_favail, fs->f_fsid, flags, fs->f_namemax };
  sftp_begin(FXP_EXTENDED_REPLY, id);
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) sftp_put64(values[i]);
  sftp_end();
}

static void stat_fs(uint32_t id, struct sftp_in *in) {
  struct statvfs fs;
  sftp_take_path(in, path);
  if (in->bad) return sftp_error(id, EINVAL);
  answer_statvfs(id, statvfs(path, &fs), &fs);
}

static void fstat_fs(uint32_t id, struct sftp_in *in) {
  struct statvfs fs;
  int fd = sftp_file(sftp_take_text(in));
  if (in->bad || fd < 0) return sftp_error(id, in->bad ? EINVAL : EBADF);
  answer_statvfs(id, fstatvfs(fd, &fs), &fs);
}

static void sync_file(uint32_t id, struct sftp_in *in) {
  int fd = sftp_file(sftp_take_text(in));
  sftp_error(id, in->bad ? EINVAL : fd < 0 ? EBADF : fsync(fd) < 0 ? errno : 0);
}

/* A link's own attributes: it has no size and, on Linux, no mode. */
static void set_link(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  struct sftp_attributes attributes = sftp_take_attributes(in);
  sftp_error(id, in->bad ? EINVAL : sftp_set_attributes(-1, path, &attributes, AT_SYMLINK_NOFOLLOW));
}

static void limits(uint32_t id, struct sftp_in *in) {
  (void)in;
  sftp_begin(FXP_EXTENDED_REPLY, id);
  sftp_put64(SFTP_PACKET_BYTES_MAX);
  sftp_put64(SFTP_DATA_BYTES_MAX);
  sftp_put64(SFTP_DATA_BYTES_MAX);
  sftp_put64(SFTP_HANDLES_MAX);
  sftp_end();
}

/* `~` and `~/…`, by HOME; another user's home is not known here. */
static void expand(uint32_t id, struct sftp_in *in) {
  sftp_take_path(in, path);
  const char *home = getenv("HOME");
  if (in->bad) return sftp_error(id, EINVAL);
  if (path[0] == '~') {
    bool known = home && (!path[1] || path[1] == '/') && strlen(home) + strlen(path) <= PATH_BYTES_MAX;
    if (!known) return sftp_error(id, ENOENT);
    strcpy(other, path + 1);
    sprintf(path, "%s%s", home, other);
  }
  if (!sftp_real_path(path, other)) return sftp_error(id, errno);
  sftp_answer_name(id, other);
}

static const struct extension {
  const char *name, *version;
  void (*run)(uint32_t id, struct sftp_in *in);
} extensions[] = {
  { "posix-rename@openssh.com", "1", posix_rename },
  { "statvfs@openssh.com", "2", stat_fs },
  { "fstatvfs@openssh.com", "2", fstat_fs },
  { "hardlink@openssh.com", "1", hard_link },
  { "fsync@openssh.com", "1", sync_file },
  { "lsetstat@openssh.com", "1", set_link },
  { "limits@openssh.com", "1", limits },
  { "expand-path@openssh.com", "1", expand },
};

void sftp_put_extensions(void) {
  for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
    sftp_put_text(extensions[i].name);
    sftp_put_text(extensions[i].version);
  }
}

void sftp_extended(uint32_t id, struct sftp_in *in) {
  struct text name = sftp_take_text(in);
  for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++)
    if (name.length == strlen(extensions[i].name) && !memcmp(name.at, extensions[i].name, name.length))
      return extensions[i].run(id, in);
  sftp_status(id, FX_OP_UNSUPPORTED, "Unknown extension");
}
