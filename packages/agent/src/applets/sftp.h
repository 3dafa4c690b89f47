/* SFTP version 3 (draft-ietf-secsh-filexfer-02): packets, attributes, requests. All integers are big-endian. */
#ifndef SFTP_H
#define SFTP_H
#include "applets.h"

enum sftp_type {
  FXP_INIT = 1, FXP_VERSION, FXP_OPEN, FXP_CLOSE, FXP_READ, FXP_WRITE, FXP_LSTAT, FXP_FSTAT, FXP_SETSTAT, FXP_FSETSTAT,
  FXP_OPENDIR, FXP_READDIR, FXP_REMOVE, FXP_MKDIR, FXP_RMDIR, FXP_REALPATH, FXP_STAT, FXP_RENAME, FXP_READLINK,
  FXP_SYMLINK,
  FXP_STATUS = 101, FXP_HANDLE, FXP_DATA, FXP_NAME, FXP_ATTRS, FXP_EXTENDED = 200, FXP_EXTENDED_REPLY,
};
enum sftp_status {
  FX_OK, FX_EOF, FX_NO_SUCH_FILE, FX_PERMISSION_DENIED, FX_FAILURE, FX_BAD_MESSAGE, FX_OP_UNSUPPORTED = 8,
};
enum { SFTP_PACKET_BYTES_MAX = 256 << 10, SFTP_DATA_BYTES_MAX = SFTP_PACKET_BYTES_MAX - 1024, SFTP_HANDLES_MAX = 256 };

/* A packet that is read: `bad` once it was shorter than what was taken from it. */
struct sftp_in { const uint8_t *at, *end; bool bad; };
uint32_t sftp_take32(struct sftp_in *in);
uint64_t sftp_take64(struct sftp_in *in);
struct text sftp_take_text(struct sftp_in *in);
/* A path: a string without NUL, of at most PATH_BYTES_MAX; "" is the current directory. `to` holds one more. */
void sftp_take_path(struct sftp_in *in, char *to);

struct sftp_attributes { uint32_t flags, uid, gid, mode, accessed, modified; uint64_t size; };
enum { ATTR_SIZE = 1, ATTR_OWNER = 2, ATTR_MODE = 4, ATTR_TIMES = 8 };
#define ATTR_EXTENDED 0x80000000U
struct sftp_attributes sftp_take_attributes(struct sftp_in *in);
/* Of `fd`, or of `path` where that is -1. 0, or the error. */
int sftp_set_attributes(int fd, const char *path, const struct sftp_attributes *attributes, int at_flags);

/* The answer that is written; it goes out with others. */
void sftp_begin(uint8_t type, uint32_t id), sftp_end(void), sftp_cancel(void);
size_t sftp_room(void);
void sftp_put32(uint32_t value), sftp_put64(uint64_t value), sftp_put_bytes(const void *data, size_t length);
void sftp_put_text(const char *text);
uint8_t *sftp_put_space(size_t length);
void sftp_put_attributes(const struct stat *stat);
void sftp_put_name(const char *name, const struct stat *stat);
void sftp_status(uint32_t id, enum sftp_status status, const char *message), sftp_error(uint32_t id, int error);
bool sftp_flush(void);
/* The next packet, or false at the end of input, or when what comes is none. */
bool sftp_receive(struct sftp_in *packet);

/* sftp-extensions.c */
void sftp_put_extensions(void);
void sftp_extended(uint32_t id, struct sftp_in *in);
int sftp_file(struct text handle);
void sftp_answer_name(uint32_t id, const char *name);
bool sftp_real_path(const char *path, char *to);
#endif
