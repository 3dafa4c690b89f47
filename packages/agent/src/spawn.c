/* From a request to a process: what happens between fork and exec, in the child. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static _Noreturn void give_up(int report, enum step step, int error)
{
  struct report words = { step, error };
  while (write(report, &words, sizeof words) < 0 && errno == EINTR);
  _exit(127);
}

/* A limit above what this process may have becomes the most it may have. */
static void limit(int resource, uint64_t value)
{
  struct rlimit now, next = { value, value };
  if (getrlimit(resource, &now) < 0) return;
  if (setrlimit(resource, &next) == 0 || now.rlim_max == RLIM_INFINITY || value <= now.rlim_max) return;
  next.rlim_cur = next.rlim_max = now.rlim_max;
  setrlimit(resource, &next);
}

/* The kernel prefers the command to the agent when memory runs out. */
static void offer_to_oom(void)
{
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = write(fd, "0", 1);
  (void)n;
  close(fd);
}

/*
 * The strings of the fields, each ended by a NUL written over the tag that follows it (or the spare byte of the receive
 * buffer): the pages are the child's own since the fork. Tags are read before they are overwritten.
 */
static bool build(const struct exec_request *request, char ***argv, char ***env, char **workdir, char **user)
{
  size_t bytes = (request->argc + request->envc + 2) * sizeof(char *);
  char **table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (table == MAP_FAILED) return false;
  *argv = table;
  *env = table + request->argc + 1;
  struct text rest = request->fields, value;
  size_t args = 0, names = 0;
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
  if (end) *end = 0;
  return true;
}

static const char *path_of(char **env)
{
  for (; *env; env++)
    if (!strncmp(*env, "PATH=", 5)) return *env + 5;
  return DEFAULT_PATH;
}

/* Becomes the command; returns the error that says most, as a shell would choose it. */
static int become(char **argv, char **env)
{
  size_t name = strlen(argv[0]);
  if (name == 0) return ENOENT;
  if (strchr(argv[0], '/')) {
    execve(argv[0], argv, env);
    return errno;
  }
  int error = ENOENT;
  for (const char *at = path_of(env);; at++) {
    const char *end = strchrnul(at, ':');
    size_t length = (size_t)(end - at);
    char file[PATH_MAX];
    if (length + name + 2 <= sizeof file) {
      memcpy(file, at, length);
      if (length) file[length++] = '/';
      memcpy(file + length, argv[0], name + 1);
      execve(file, argv, env);
      if (errno == EACCES) error = EACCES;
      else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != ENAMETOOLONG) return errno;
    }
    if (!*end) return error;
    at = end;
  }
}

static _Noreturn void child(const struct exec_request *request, int in, int out, int err, int report)
{
  static const int resources[] = { RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_CORE };
  char **argv, **env, *workdir = NULL, *user = NULL;
  if (!build(request, &argv, &env, &workdir, &user)) give_up(report, STEP_FORK, ENOMEM);
  setsid();
  offer_to_oom(); /* while the agent's own user, who owns the file */
  for (int i = 0; i < 3; i++)
    if (request->limited[i]) limit(resources[i], request->limit[i]);
  int error = user ? user_apply(user) : 0;
  if (error) give_up(report, STEP_USER, error);
  if (workdir && chdir(workdir) < 0) give_up(report, STEP_WORKDIR, errno);
  /* The agent's own 0, 1 and 2 are always open, so none of these is below 3. */
  if ((in >= 0 && dup2(in, 0) < 0) || dup2(out, 1) < 0 || dup2(err, 2) < 0) give_up(report, STEP_PIPES, errno);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  give_up(report, STEP_EXEC, become(argv, env));
}

pid_t spawn_command(const struct exec_request *request, int in, int out, int err, int report)
{
  pid_t pid = fork();
  if (pid == 0) child(request, in, out, err, report);
  return pid;
}

/* To the group; to the process alone while it has not made its group yet. */
void signal_group(pid_t pid, bool reaped, int signal)
{
  if (kill(-pid, signal) < 0 && errno == ESRCH && !reaped) kill(pid, signal);
}

int64_t now_ms(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
