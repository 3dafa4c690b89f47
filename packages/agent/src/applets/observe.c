/* observe: processes that start and end in the sandbox, and ports that are listened on. */
#include "observe.h"
#include <dirent.h>
#include <sys/syscall.h>
#include <time.h>

enum {
  INTERVAL_MS_MIN = 10, INTERVAL_MS_MAX = 60000, COST_SHARE = 50, /* it waits that many times as long as a look took */
  FORKED = 0x40,                                                 /* PF_FORKNOEXEC in the flags of proc_pid_stat(5) */
  EXEC_MS = 200,                                                 /* that what was forked has to become another program */
};

struct process processes[PROCESSES_MAX]; /* by pid */
size_t process_count;
static const char *agent; /* as this applet was called; whoever is called so is of the agent, and nobody is told of it */
static pid_t top;         /* outside a process namespace: the agent that started this; only what descends from it counts */
static int poller = -1;
static bool quiet, again; /* `quiet`: nothing is told; `again`: look next time whatever the kernel's counter says */

static ssize_t read_file(const char *path, char *buffer, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);
  if (fd >= 0) close(fd);
  buffer[n > 0 ? n : 0] = 0;
  return n;
}

/* The command line in one line, or its name in brackets; NULL: it is gone. Bytes that move a terminal become `?`. */
char *command_of(pid_t pid, bool *ours) {
  char path[64], text[COMMAND_BYTES_MAX + 1];
  snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
  ssize_t n = read_file(path, text, sizeof text);
  if (ours) *ours = n > 0 && !strcmp(text, agent);
  while (n > 0 && !text[n - 1]) n--;
  if (n <= 0) {
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    if ((n = read_file(path, text + 1, sizeof text - 2)) <= 0) return NULL;
    text[0] = '[', text[n] = ']'; /* for its line end */
    n++;
  }
  for (ssize_t i = 0; i < n; i++)
    if (!text[i]) text[i] = ' ';
    else if ((uint8_t)text[i] < 0x20 || text[i] == 0x7f) text[i] = '?';
  return strndup(text, (size_t)n);
}

void out_field(const char *text) { out_bytes(text, strlen(text) + 1); }

/* `what` is the letter of the record that begins here, or 0. */
void out_number(char what, long value) {
  char text[24] = { what };
  out_bytes(text, (size_t)snprintf(text + !!what, sizeof text - 1, "%ld", value) + 1 + !!what);
}
static void say(char what, const struct process *process) {
  if (quiet) return;
  out_number(what, process->pid);
  out_number(0, process->parent);
  out_field(process->command);
}

/* Where a process is in the table, or belongs. */
static struct process *place_of(pid_t pid) {
  size_t low = 0, high = process_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (processes[middle].pid < pid) low = middle + 1;
    else high = middle;
  }
  return &processes[low];
}
static struct process *find(pid_t pid) {
  struct process *process = place_of(pid);
  return process < processes + process_count && process->pid == pid ? process : NULL;
}
static void ended(struct process *process) {
  if (process->told) say('x', process);
  if (process->handle >= 0) close(process->handle);
  free(process->command);
  memmove(process, process + 1, (size_t)(processes + --process_count - process) * sizeof *process);
}

/* Reads `stat` from its third field on; the second may hold anything. False: it is gone, or only waits to be reaped. */
static bool read_stat(pid_t pid, struct process *into, unsigned *flags) {
  char path[64], text[1024], *rest, state;
  unsigned long long began;
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  if (read_file(path, text, sizeof text) <= 0 || !(rest = strrchr(text, ')'))) return false;
  int n = sscanf(rest + 1, " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
                 &into->parent, flags, &began);
  into->began = began;
  return n == 4 && state != 'Z' && state != 'X';
}

static void look_at(pid_t pid) {
  struct process *process = find(pid), fresh = { .pid = pid, .handle = -1 };
  unsigned flags;
  if (process && process->known && process->handle >= 0) { process->seen = true; return; } /* its handle tells its end */
  if (!read_stat(pid, &fresh, &flags)) return;
  bool is_new = !process;
  if (process && process->began != fresh.began) ended(process), is_new = true; /* the pid was given again */
  if (is_new) {
    if (process_count == PROCESSES_MAX) return;
    process = place_of(pid);
    memmove(process + 1, process, (size_t)(processes + process_count++ - process) * sizeof *process);
    *process = fresh;
    process->handle = (int)syscall(SYS_pidfd_open, pid, 0);
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)pid };
    if (process->handle >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, process->handle, &event) < 0)
      close(process->handle), process->handle = -1;
  }
  process->seen = true;
  if (process->handle < 0) again = true;
  if (process->known) return;
  process->parent = fresh.parent;
  if (is_new) process->first_ms = now_ms();
  bool early = !quiet && now_ms() - process->first_ms < EXEC_MS;
  if (flags & FORKED && early) { again = true; return; }
  free(process->command);
  process->command = command_of(pid, &process->ours);
  /* In the midst of an exec there is no command line yet. */
  if (!process->command || (flags & FORKED && process->ours) || (*process->command == '[' && early)) again = true;
  else process->known = true;
}

/* Outside a process namespace others are there too; then 0, a process that nobody knows, is not of the sandbox. */
bool is_of_sandbox(pid_t pid) {
  for (int depth = 0; top && pid != top && depth < PROCESSES_MAX; depth++) {
    const struct process *process = find(pid);
    struct process now;
    unsigned flags;
    if (!process) return false;
    now.parent = process->parent;
    /* Whose parent ended has another one now. */
    if (!find(now.parent) && !read_stat(pid, &now, &flags)) return false;
    pid = now.parent;
  }
  return true;
}

static void look_at_processes(void) {
  struct dirent *entry;
  DIR *directory = opendir("/proc");
  again = false;
  for (size_t i = 0; i < process_count; i++) processes[i].seen = false;
  while (directory && (entry = readdir(directory)))
    if (*entry->d_name >= '1' && *entry->d_name <= '9') look_at(atoi(entry->d_name));
  if (directory) closedir(directory);
  for (size_t i = process_count; i-- > 0;)
    if (!processes[i].seen) ended(&processes[i]);
  for (struct process *process = processes; process < processes + process_count; process++) {
    if (!process->known || process->judged) continue;
    process->judged = true;
    process->told = !process->ours && is_of_sandbox(process->pid);
    if (process->told) say('s', process);
  }
}

/* Whether a process may have been made since the last call: by the last pid that the namespace gave (proc_loadavg(5)). */
static bool made(void) {
  static char before[16];
  static int load = -1;
  char text[128];
  if (load < 0) load = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  ssize_t n = pread(load, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = 0;
  const char *last = strrchr(text, ' ');
  if (!last) return true;
  bool changed = strncmp(last, before, sizeof before - 1) != 0;
  strncpy(before, last, sizeof before - 1);
  return changed;
}

/* Until the next look, ends are told when they come. */
static void wait_ms(int64_t left) {
  struct epoll_event events[64];
  for (int64_t until = now_ms() + left; left > 0; left = until - now_ms()) {
    int n = epoll_wait(poller, events, 64, (int)left);
    for (int i = 0; i < n; i++) {
      struct process *process = find((pid_t)events[i].data.u32);
      if (events[i].data.u32 == 0) _exit(0); /* nobody reads what it says */
      if (process) ended(process);
    }
    out_flush();
  }
}

int applet_observe(int argc, char **argv) {
  char *end;
  long interval_ms = strtol(argv[0], &end, 10);
  struct rlimit files;
  if (*end || interval_ms < INTERVAL_MS_MIN || interval_ms > INTERVAL_MS_MAX) return complain(BAD_USAGE, argv[0], EINVAL);
  if (argc > 1 && strcmp(argv[1], "--once") != 0) return complain(BAD_USAGE, argv[1], EINVAL);
  quiet = argc > 1;
  agent = program_invocation_name;
  top = getppid() > 1 ? getppid() : 0;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
  poller = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event closed = { .events = 0 };
  epoll_ctl(poller, EPOLL_CTL_ADD, 1, &closed);
  for (;;) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (made() || again) look_at_processes();
    look_at_ports();
    out_flush();
    if (quiet) return 0;
    clock_gettime(CLOCK_MONOTONIC, &to);
    int64_t cost_ms = ((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec) * COST_SHARE / 1000000;
    wait_ms(cost_ms > interval_ms ? cost_ms : interval_ms);
  }
}
