/*
 * libFuzzer over the applets that parse what a client sends: sftp and untar. An input is a script of packets or of an
 * archive, well-formed but for what the script says. They run for real, as root of an empty tree of their own (which
 * takes root outside: chroot(2) of one thread). Beside what the sanitizers see: no archive touches anything outside of
 * the directory it is unpacked to, and no descriptor is left open.
 */
#include "../src/applets/tar-header.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      dprintf(loud, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      abort(); \
    } \
  } while (0)

enum { INPUT_BYTES_MAX = 1 << 20 };
static const uint8_t *script, *script_end;
static uint8_t input[INPUT_BYTES_MAX];
static size_t input_bytes;
static sem_t wanted, done;
static int loud = 2;
static const char *const names[] = { "a", "b", "a/b", "way", "way/x", "up", "up/x", "..", "/x", "a/../x", "a//b/", "",
                                     "./", "~/x", "in", "/outside/file" };
static const char *const extensions[] = { "posix-rename@openssh.com", "statvfs@openssh.com", "fstatvfs@openssh.com",
                                          "hardlink@openssh.com", "fsync@openssh.com", "lsetstat@openssh.com",
                                          "limits@openssh.com", "expand-path@openssh.com" };
static const char *const keys[] = { "path", "linkpath", "size", "mtime", "uid", "gid", "GNU.sparse.name", "x" };

/* Files without a name, and processes that guard them, are not what is looked for here. */
void temporary_name(char *name) { strcpy(name, ".bramble-fuzz"); }
bool sink_open(struct sink *sink, int dir) {
  *sink = (struct sink){ .dir = dir, .fd = openat(dir, ".bramble-fuzz", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) };
  return sink->fd >= 0;
}
bool sink_commit(struct sink *sink, const char *name, bool replace) {
  (void)replace;
  return renameat(sink->dir, ".bramble-fuzz", sink->dir, name) == 0;
}
void sink_drop(struct sink *sink) {
  int error = errno;
  if (sink->fd >= 0) close(sink->fd);
  unlinkat(sink->dir, ".bramble-fuzz", 0);
  errno = error;
}

static uint8_t take(void) { return script < script_end ? *script++ : 0; }

static void put(const void *data, size_t length) {
  if (length > sizeof input - input_bytes) length = sizeof input - input_bytes;
  memcpy(input + input_bytes, data, length);
  input_bytes += length;
}

static void put_big(uint32_t value) {
  uint8_t bytes[4] = { (uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value };
  put(bytes, 4);
}

static void put_string(const void *data, size_t length) {
  put_big((uint32_t)length);
  put(data, length);
}

/* A part of a packet: most are what some request has there. */
static void put_part(void) {
  uint8_t what = take(), low = what & 15, handle[8] = { low };
  switch (what >> 4) {
  case 0: case 1: case 2: return put_string(names[low], strlen(names[low]));
  case 3: case 4: return put_big(low);
  case 5: return put_big(1U << (2 * low + 1));
  case 6: case 7: case 8: return handle[4] = 1 + take() % 8, put_string(handle, 8);
  case 9: return put_string(extensions[low % 8], strlen(extensions[low % 8]));
  case 10: return put_big(0), put_big(low); /* an offset */
  case 11: return put_big(~0U - low);
  case 12: {
    size_t length = (size_t)(script_end - script) < low ? (size_t)(script_end - script) : low;
    put_string(script, length);
    script += length;
    return;
  }
  default: what = take(), put(&what, 1);
  }
}

static void write_packets(void) {
  static const uint8_t init[] = { 0, 0, 0, 5, 1, 0, 0, 0, 3 };
  if (take() & 7) put(init, sizeof init);
  for (uint32_t id = 1; script < script_end && input_bytes < INPUT_BYTES_MAX / 2; id++) {
    size_t begin = input_bytes;
    uint8_t type = take(), parts = take();
    type = type < 220 ? (uint8_t)(3 + type % 18) : type < 245 ? 200 : type;
    put_big(0);
    put(&type, 1);
    put_big(id);
    for (int i = 0; i < (parts & 7); i++) put_part();
    uint32_t length = (uint32_t)(input_bytes - begin - 4);
    if (parts > 250) length += parts;
    for (int i = 0; i < 4; i++) input[begin + (size_t)i] = (uint8_t)(length >> (24 - 8 * i));
  }
}

static void put_name(char *field, size_t size) {
  uint8_t what = take();
  if (what < 200) strcpy(field, names[what & 15]);
  else memset(field, what, size); /* full, and without an end */
}

static size_t put_records(void) {
  size_t begin = input_bytes;
  for (uint8_t count = take() & 3; count; count--) {
    char record[64], value[24] = "";
    uint8_t key = take(), what = take();
    if (what < 128) strcpy(value, names[what & 15]);
    else snprintf(value, sizeof value, "%s%u.%u", what & 64 ? "-" : "", 1U << (what & 31), what & 3);
    int claimed = (int)(strlen(keys[key & 7]) + strlen(value) + 5 + (key > 250));
    int length = snprintf(record, sizeof record, "%02d %s=%s\n", claimed, keys[key & 7], value);
    put(record, (size_t)length);
  }
  return input_bytes - begin;
}

static void write_archive(void) {
  static const char types[] = "00000125xxgLK346S7";
  static const uint8_t zeros[2 * TAR_BLOCK];
  while (script < script_end && input_bytes < INPUT_BYTES_MAX / 2) {
    struct tar_header header = { .type = types[take() % (sizeof types - 1)], .magic = "ustar" };
    size_t at = input_bytes, size = 0;
    uint8_t flags = take();
    put_name(header.name, sizeof header.name);
    if (header.type == '1' || header.type == '2') put_name(header.linkname, sizeof header.linkname);
    if (flags & 1) put_name(header.prefix, sizeof header.prefix);
    put(&header, TAR_BLOCK);
    if (header.type == 'x' || header.type == 'g') size = put_records();
    else if (header.type == 'L' || header.type == 'K') size = strlen(names[flags >> 4]), put(names[flags >> 4], size);
    else if (header.type == '0') size = (size_t)take() * (flags & 2 ? 1024 : 1), input_bytes += size;
    if (input_bytes > INPUT_BYTES_MAX / 2 + (256 << 10)) return;
    snprintf(header.size, sizeof header.size, "%011zo", size + (flags > 250 ? flags : 0));
    if (flags & 4) memset(header.size, 0x80, 1), header.size[11] = (char)size;
    snprintf(header.mode, sizeof header.mode, "%07o", 0700 | take());
    if (flags & 8) ((uint8_t *)&header)[(size_t)take() * 2] = take();
    snprintf(header.checksum, sizeof header.checksum, "%06o", tar_checksum(&header));
    memcpy(input + at, &header, TAR_BLOCK);
    put(zeros, -size % TAR_BLOCK);
  }
  put(zeros, script_end > script ? 100 : 2 * TAR_BLOCK);
}

static size_t entries_of(const char *path) {
  DIR *directory = opendir(path);
  size_t count = 0;
  CHECK(directory);
  while (readdir(directory)) count++;
  closedir(directory);
  return count;
}

/* The tree that every input finds. */
static void make_world(void) {
  DIR *directory = opendir("/");
  CHECK(directory);
  for (struct dirent *entry; (entry = readdir(directory));)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      CHECK(remove_tree(dirfd(directory), entry->d_name) == 0);
  closedir(directory);
  CHECK(chmod("/", 0755) == 0 && mkdir("/w", 0755) == 0 && mkdir("/w/in", 0755) == 0 && mkdir("/outside", 0755) == 0);
  CHECK(symlink("/outside", "/w/in/way") == 0 && symlink("..", "/w/in/up") == 0 && chdir("/w") == 0);
  int fd = open("/outside/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  CHECK(fd >= 0 && write(fd, "kept", 4) == 4);
  close(fd);
}

static int lowest_free(void) {
  int fd = fcntl(1, F_DUPFD_CLOEXEC, 3);
  close(fd);
  return fd;
}

static void run(void) {
  static char in[] = "in", home[] = "in";
  struct stat before, after;
  int free_before = lowest_free();
  make_world();
  bool archive = take() & 1;
  input_bytes = 0;
  memset(input, 0, sizeof input);
  if (archive) write_archive();
  else write_packets();
  if (take() & 128) input_bytes -= input_bytes < 100 ? input_bytes : 100;
  int fd = memfd_create("input", MFD_CLOEXEC);
  CHECK(fd >= 0 && write_all(fd, input, input_bytes) && lseek(fd, 0, SEEK_SET) == 0 && dup2(fd, 0) == 0);
  close(fd);
  CHECK(stat("/outside/file", &before) == 0);
  char *arguments[] = { archive ? in : home };
  if (!archive) applet_sftp(1, arguments);
  else {
    applet_untar(1, arguments);
    CHECK(stat("/outside/file", &after) == 0 && after.st_size == 4 && after.st_mode == before.st_mode);
    CHECK(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec && after.st_uid == 0);
    CHECK(entries_of("/") == 4 && entries_of("/w") == 3 && entries_of("/outside") == 3);
  }
  dup2(1, 0);
  CHECK(lowest_free() == free_before);
}

static void await(sem_t *semaphore) {
  while (sem_wait(semaphore) < 0) CHECK(errno == EINTR); /* libFuzzer's clock */
}

static void *worker(void *root) {
  CHECK(unshare(CLONE_FS) == 0 && chroot(root) == 0 && chdir("/") == 0);
  for (;;) {
    await(&wanted);
    run();
    sem_post(&done);
  }
  return NULL;
}

static void start(void) {
  static char root[] = "/dev/shm/bramble-fuzz-XXXXXX";
  pthread_t thread;
  struct rlimit most = { 1 << 30, 1 << 30 };
  loud = fcntl(2, F_DUPFD_CLOEXEC, 100);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(null >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1);
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &most);
  setenv("HOME", "/w", 1);
  CHECK(mkdtemp(root) && sem_init(&wanted, 0, 0) == 0 && sem_init(&done, 0, 0) == 0);
  CHECK(pthread_create(&thread, NULL, worker, root) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (loud == 2) start();
  script = data;
  script_end = data + size;
  sem_post(&wanted);
  await(&done);
  return 0;
}
