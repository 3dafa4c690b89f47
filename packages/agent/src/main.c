/* The agent's start, its signals, and the ways the host may reach it. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { REAP_MAX = 256, DEVICE_POLL_MS = 50, KILL_ROUNDS_MAX = 5000 };

static int signals = -1, listener = -1;
static bool init, stop;

static _Noreturn void die(const char *what)
{
  const char *words[] = { "bramble-agent: ", what, ": ", errno ? strerrordesc_np(errno) : "see packages/agent/README.md", "\n" };
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (words[i] && write(2, words[i], strlen(words[i])) < 0) break;
  _exit(1);
}

/* Every child that ended, orphans of the sandbox included. */
static void reap(void)
{
  struct rusage usage;
  int status;
  for (int i = 0; i < REAP_MAX; i++) {
    pid_t pid = wait4(-1, &status, WNOHANG, &usage);
    if (pid <= 0) return;
    channel_ended(pid, status, &usage);
  }
  loop_again = true;
  kill(getpid(), SIGCHLD); /* blocked: comes back through the descriptor, after the others had their turn */
}

static void accept_one(void)
{
  while (listener >= 0 && connection.in < 0) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    struct ucred peer = { 0 };
    socklen_t length = sizeof peer;
    /* The host is outside this process namespace and has no pid in it; whoever has one is of the sandbox. */
    if (init && (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || peer.pid != 0)) {
      close(fd);
      continue;
    }
    if (!connection_open(fd, fd)) connection_close();
  }
}

static void other(enum source source)
{
  if (source == FROM_LISTENER) accept_one();
  if (source != FROM_SIGNALS) return;
  struct signalfd_siginfo info;
  while (read(signals, &info, sizeof info) == sizeof info)
    if (info.ssi_signo != SIGCHLD) stop = true;
  reap();
}

/* Without a process namespace nobody else ends what the commands left: children, and whoever becomes one by that. */
static void kill_descendants(void)
{
  char path[] = "/proc/self/task/0000000000/children", buffer[4096];
  pid_t self = getpid();
  char digits[12], *at = digits + sizeof digits - 1;
  *at = 0;
  for (pid_t rest = self; rest; rest /= 10) *--at = (char)('0' + rest % 10);
  strcpy(path, "/proc/self/task/");
  strcat(path, at);
  strcat(path, "/children");
  for (int round = 0; round < KILL_ROUNDS_MAX; round++) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, buffer, sizeof buffer - 1);
    if (fd >= 0) close(fd);
    buffer[n > 0 ? n : 0] = 0;
    for (char *word = strtok(buffer, " "); word; word = strtok(NULL, " ")) {
      pid_t pid = atoi(word);
      if (pid <= 1) continue;
      if (getpgid(pid) == pid) kill(-pid, SIGKILL);
      kill(pid, SIGKILL);
    }
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0);
    if (pid < 0) return;
    poll(NULL, 0, 1);
  }
}

static void set_up_process(void)
{
  init = getpid() == 1;
  for (int i = 1; i <= 64; i++) signal(i, SIG_DFL);
  sigset_t all, taken;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  sigemptyset(&taken);
  sigaddset(&taken, SIGCHLD);
  if (!init) {
    sigaddset(&taken, SIGTERM);
    sigaddset(&taken, SIGINT);
    sigaddset(&taken, SIGHUP);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  prctl(PR_SET_DUMPABLE, 0);
  umask(022);
  if (chdir("/") < 0) die("chdir /");
  signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0 || !loop_watch(signals, EPOLLIN, FROM_SIGNALS, 0, 0)) die("signalfd");
}

/* Standard streams that lead nowhere, so that no command inherits one that leads somewhere. */
static void close_standard(int last)
{
  int fd = open("/dev/null", O_RDWR);
  int ends[2];
  if (fd < 0 && pipe(ends) == 0) {
    close(ends[1]);
    fd = ends[0];
  }
  if (fd < 0) die("/dev/null");
  for (int i = 0; i <= last; i++)
    if (i != fd) dup2(fd, i);
  if (fd > 2) close(fd);
}

static void listen_at(const char *path, int ready)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (strlen(path) >= sizeof address.sun_path) errno = ENAMETOOLONG, die(path);
  strcpy(address.sun_path, path);
  unlink(path);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  mode_t mask = umask(0177);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 16) < 0 ||
      !loop_watch(listener, EPOLLIN, FROM_LISTENER, 0, 0)) die(path);
  umask(mask);
  close_standard(init ? 2 : 1);
  if (ready >= 0) {
    if (write(ready, "\n", 1) < 0) die("ready descriptor");
    if (ready > 2) close(ready);
  }
}

static void use_stdio(void)
{
  int in = fcntl(0, F_DUPFD_CLOEXEC, 3), out = fcntl(1, F_DUPFD_CLOEXEC, 3);
  if (in < 0 || out < 0) die("standard streams");
  fcntl(in, F_SETFL, fcntl(in, F_GETFL) | O_NONBLOCK);
  fcntl(out, F_SETFL, fcntl(out, F_GETFL) | O_NONBLOCK);
  close_standard(1);
  if (!connection_open(in, out)) die("standard streams");
}

/* A port has a host on its other side, or hangs up; nothing announces that it came, so it is asked. */
static void use_device(const char *path)
{
  int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    poll(NULL, 0, DEVICE_POLL_MS);
    return;
  }
  struct pollfd port = { .fd = fd, .events = POLLOUT };
  struct termios terminal;
  if (tcgetattr(fd, &terminal) == 0) {
    cfmakeraw(&terminal);
    tcsetattr(fd, TCSANOW, &terminal);
  }
  while (poll(&port, 1, 0) >= 0 && port.revents & POLLHUP) {
    loop_turn(DEVICE_POLL_MS, other);
    if (stop) break;
  }
  if (stop || !connection_open(fd, fd)) close(fd);
}

int main(int argc, char **argv)
{
  if (argc == 4 && !strcmp(argv[1], "put")) return applet_put(argv[2], argv[3]);
  if (argc == 4 && !strcmp(argv[1], "get")) return applet_get(argv[2], argv[3]);
  const char *path = NULL, *device = NULL;
  bool stdio = false, keep = false;
  int ready = -1;
  for (int i = 1; i < argc; i++) {
    bool more = i + 1 < argc;
    if (!strcmp(argv[i], "--stdio")) stdio = true;
    else if (!strcmp(argv[i], "--keep")) keep = true;
    else if (!strcmp(argv[i], "--listen") && more) path = argv[++i];
    else if (!strcmp(argv[i], "--open") && more) device = argv[++i];
    else if (!strcmp(argv[i], "--ready-fd") && more) ready = atoi(argv[++i]);
    else errno = 0, die(argv[i]);
  }
  if (stdio + !!path + !!device != 1) errno = 0, die("one of --stdio, --listen PATH, --open PATH");
  syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
  set_up_process();
  if (path) listen_at(path, ready);
  else if (stdio) use_stdio();
  else close_standard(1);
  while (!stop) {
    if (device && connection.in < 0) use_device(device);
    bool served = connection.in >= 0;
    loop_turn(-1, other);
    if (connection.in >= 0) continue;
    if (served && (stdio || (!init && !keep))) break;
    accept_one();
  }
  connection_close();
  if (!init) kill_descendants();
  return 0;
}
