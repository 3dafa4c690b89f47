/* From a request to a process: what happens between fork and exec, in the child. */
#include "agent.h"
#include <grp.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <time.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Users and groups, by the sandbox's own files, which may hold anything. */
enum { DATABASE_BYTES_MAX = 1 << 20 };

static struct {
  const char *user, *group;
  char name[64]; /* as /etc/passwd has it */
  uint32_t uid, gid, groups[GROUPS_MAX];
  size_t count;
} who;
static char database[DATABASE_BYTES_MAX + 1];

/* A user or group id; (uid_t)-1 is none. */
static bool number(const char *text, uint32_t *value) {
  char *end;
  unsigned long long sum = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || sum >= UINT32_MAX) return false;
  *value = (uint32_t)sum;
  return true;
}

/* Hands each line's first four fields to `line` until it is content; of a larger file, the beginning. */
static bool scan(const char *path, bool (*line)(char *const *fields)) {
  struct stat stat;
  ssize_t length = 0, n = 1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) return false;
  for (; n > 0 && length < DATABASE_BYTES_MAX; length += n > 0 ? n : 0)
    n = read(fd, database + length, (size_t)(DATABASE_BYTES_MAX - length));
  close(fd);
  database[length] = 0;
  for (char *at = database, *text; (text = strsep(&at, "\n"));) {
    char *fields[4];
    int count = 0;
    while (count < 4 && (fields[count] = strsep(&text, ":"))) count++;
    if (count == 4 && line(fields)) return true;
  }
  return false;
}

static bool passwd_line(char *const *fields) {
  uint32_t wanted, uid, gid;
  if (!number(fields[2], &uid) || !number(fields[3], &gid) || strlen(fields[0]) >= sizeof who.name) return false;
  if (number(who.user, &wanted) ? uid != wanted : strcmp(fields[0], who.user) != 0) return false;
  who.uid = uid;
  who.gid = gid;
  strcpy(who.name, fields[0]);
  return true;
}

static bool group_line(char *const *fields) {
  char *members = fields[3], *member;
  uint32_t gid;
  if (who.group) return !strcmp(fields[0], who.group) && number(fields[2], &who.gid);
  while (number(fields[2], &gid) && who.count < GROUPS_MAX && (member = strsep(&members, ",")))
    if (!strcmp(member, who.name)) who.groups[who.count++] = gid;
  return false;
}

/* Makes this process the user's; 0, or the error. A uid that has no line in passwd gets group 0, as in other runtimes;
   a group that is named is the only one. Root is 0 also in an image that names nobody: from scratch, many have no passwd. */
static int user_apply(const char *spec, int tty) {
  static char copy[USER_BYTES_MAX + 1];
  char *rest = strncpy(copy, spec, USER_BYTES_MAX);
  who.user = strsep(&rest, ":");
  who.group = rest;
  if (!scan("/etc/passwd", passwd_line) && !number(who.user, &who.uid) && strcmp(who.user, "root")) return ENOENT;
  if (who.group && !number(who.group, &who.gid) && !scan("/etc/group", group_line)) return ENOENT;
  if (!who.group && who.name[0]) scan("/etc/group", group_line);
  if (tty >= 0 && fchown(tty, who.uid, (gid_t)-1) < 0) errno = 0; /* or the user could not open it again by its name */
  if (getuid() != 0 && who.uid == getuid() && who.gid == getgid()) return 0;
  if (setgroups(who.count, who.groups) < 0 || setresgid(who.gid, who.gid, who.gid) < 0) return errno;
  return setresuid(who.uid, who.uid, who.uid) < 0 ? errno : 0;
}

static _Noreturn void give_up(int report, enum step step, int error) {
  struct report words = { (int32_t)step, error };
  while (write(report, &words, sizeof words) < 0 && errno == EINTR);
  _exit(127);
}

/* A limit above what this process may have becomes the most it may have. */
static void limit(int resource, uint64_t value) {
  struct rlimit now, next = { value, value };
  if (getrlimit(resource, &now) < 0 || setrlimit(resource, &next) == 0 || value <= now.rlim_max) return;
  next.rlim_cur = next.rlim_max = now.rlim_max;
  setrlimit(resource, &next);
}

/* When memory runs out the kernel is to prefer the command to the agent, and to whatever else there is. */
static void offer_to_oom(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0 && write(fd, "1000", 4) < 0) errno = 0;
  if (fd >= 0) close(fd);
}

/* The strings of the fields, each ended by a NUL written over the tag that follows it (or the spare byte of the receive
   buffer): the pages are the child's own since the fork. A tag is read before it is overwritten. */
static bool build(const struct exec_request *request, char ***argv, char ***env, char **workdir, char **user) {
  size_t bytes = (request->argc + request->envc + 2) * sizeof(char *), args = 0, names = 0;
  char **table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (table == MAP_FAILED) return false;
  *argv = table;
  *env = table + request->argc + 1;
  struct text rest = request->fields, value;
  uint8_t tag, *end = NULL;
  while (field_next(&rest, &tag, &value)) {
    if (end) *end = 0;
    char *string = (char *)(uintptr_t)value.at;
    end = (uint8_t *)string + value.length;
    if (tag == 1) (*argv)[args++] = string;
    else if (tag == 2) (*env)[names++] = string;
    else if (tag == 3) *workdir = string;
    else if (tag == 4) *user = string;
  }
  *end = 0;
  return true;
}

/* Becomes the command; returns the error that says most, as a shell would choose it. */
static int become(char **argv, char **env) {
  const char *at = DEFAULT_PATH, *end;
  size_t name = strlen(argv[0]), length;
  int error = ENOENT;
  char file[PATH_MAX];
  if (strchr(argv[0], '/')) execve(argv[0], argv, env);
  if (!name || strchr(argv[0], '/')) return name ? errno : ENOENT;
  for (char **entry = env; *entry; entry++)
    if (!strncmp(*entry, "PATH=", 5)) at = *entry + 5;
  for (;; at = end + 1) {
    end = strchrnul(at, ':');
    length = (size_t)(end - at);
    if (length + name + 2 <= sizeof file) {
      memcpy(file, at, length);
      if (length) file[length++] = '/';
      memcpy(file + length, argv[0], name + 1);
      execve(file, argv, env);
      if (errno == EACCES) error = EACCES;
      else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != ENAMETOOLONG) return errno;
    }
    if (!*end) return error;
  }
}

static _Noreturn void child(const struct exec_request *request, int in, int out, int err, int report) {
  static const int resources[] = { RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_CORE };
  char **argv, **env, *workdir = NULL, *user = NULL;
  if (!build(request, &argv, &env, &workdir, &user)) give_up(report, STEP_FORK, ENOMEM);
  setsid();
  offer_to_oom(); /* while the file is this process's own */
  for (int i = 0; i < 3; i++)
    if (request->limited[i]) limit(resources[i], request->limit[i]);
  if (request->pty && ioctl(in, TIOCSCTTY, 0) < 0) give_up(report, STEP_PIPES, errno);
  int error = user ? user_apply(user, request->pty ? in : -1) : 0;
  if (error) give_up(report, STEP_USER, error);
  if (workdir && chdir(workdir) < 0) give_up(report, STEP_WORKDIR, errno);
  /* The agent's own 0, 1 and 2 are always open, so none of these is below 3. */
  if ((in >= 0 && dup2(in, 0) < 0) || dup2(out, 1) < 0 || dup2(err, 2) < 0) give_up(report, STEP_PIPES, errno);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  give_up(report, STEP_EXEC, become(argv, env));
}

pid_t spawn_command(const struct exec_request *request, int in, int out, int err, int report) {
  pid_t pid = fork();
  if (pid == 0) child(request, in, out, err, report);
  return pid;
}

/* To the group; to the process alone while it has not made its group yet. */
void signal_group(pid_t pid, bool reaped, int number) {
  if (kill(-pid, number) < 0 && errno == ESRCH && !reaped) kill(pid, number);
}

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
