/* The agent's start, its signals, and the ways in which the host may reach it. */
#include "agent.h"
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

enum { REAP_MAX = 256, DEVICE_POLL_MS = 50, KILL_ROUNDS_MAX = 5000 };
static int poller = -1, signals = -1, listener = -1;
static bool init, relay, once, stop; /* `init`: this is PID 1; `once`: it ends with its connection */
bool loop_again;

static _Noreturn void die(const char *what, int error) { _exit(complain(1, what, error)); }

static void accept_one(void) {
  while (listener >= 0 && connection.in < 0) {
    struct ucred peer = { 0 };
    socklen_t length = sizeof peer;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    /* The host is outside this process namespace and has no pid in it; whoever has one is of the sandbox. */
    if (init && (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || (peer.pid != 0 && !(relay && peer.uid == 0)))) close(fd);
    else if (!connection_open(fd, fd)) connection_close();
  }
}

/* Reaps every child that ended, orphans of the sandbox included; after REAP_MAX the others have their turn first. */
static void take_signals(void) {
  struct signalfd_siginfo info;
  struct rusage usage;
  int status, count = 0;
  pid_t pid;
  while (read(signals, &info, sizeof info) == sizeof info)
    stop |= !init && (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGHUP);
  while (count++ < REAP_MAX && (pid = wait4(-1, &status, WNOHANG, &usage)) > 0) channel_ended(pid, status, &usage);
  if (count > REAP_MAX) kill(getpid(), SIGCHLD); /* blocked: it comes back through the descriptor */
}

bool loop_watch(int fd, uint32_t events, enum source source, uint32_t slot, uint32_t serial) {
  if (poller < 0) poller = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = { .events = events | EPOLLET };
  event.data.u64 = (uint64_t)serial << 32 | slot << 8 | source;
  return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0;
}

static int wait_ms(int timeout_ms) {
  int64_t wait = timeout_ms < 0 ? INT32_MAX : timeout_ms, deadline = parked ? park_deadline() : channels_deadline;
  int64_t left = deadline < 0 ? wait : deadline - now_ms();
  if (loop_again) return 0;
  if (connection.tx_end > 0 && connection.writable && wait > HOLD_MS) wait = HOLD_MS;
  if (left < wait) wait = left;
  return wait == INT32_MAX ? -1 : wait < 0 ? 0 : (int)wait;
}

void loop_turn(int timeout_ms) {
  static bool signalled;
  struct epoll_event events[64];
  int n = epoll_wait(poller, events, 64, wait_ms(timeout_ms));
  if (n <= 0) connection.urgent = true; /* nobody else came: what was held back goes alone */
  loop_again = n == 64;
  for (int i = 0; i < n; i++) {
    enum source source = (enum source)(events[i].data.u64 & 0xff);
    uint32_t slot = events[i].data.u64 >> 8 & 0xffffff, serial = (uint32_t)(events[i].data.u64 >> 32);
    if (source == FROM_SIGNALS) signalled = true;
    else if (source == FROM_EVENTS) log_event();
    else if (source >= FROM_REPORT) channel_event(slot, serial, source, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    else if (serial == connection.serial) {
      if (source == FROM_CONNECTION_IN && events[i].events & ~(uint32_t)EPOLLOUT) connection.readable = true;
      if (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connection.writable = true;
    }
  }
  park_step();
  if (signalled && !parked) { /* after the output: what a command wrote last is known to be there before its end is */
    signalled = false;
    take_signals();
  }
  if (connection.urgent) connection_flush();
  connection_receive();
  if (!parked) {
    channels_step();
    log_step();
  }
  if (connection.urgent) connection_flush();
  if (connection.starved && connection.writable) loop_again = true; /* the answers have room now */
  if (connection.over) connection_close(), stop |= once;
  if (connection.in < 0 && !stop) accept_one();
}

/* Without a process namespace nobody else ends what the commands left: children, and whoever becomes one by that. */
static void kill_descendants(void) {
  char buffer[4096], *rest, *word;
  for (int round = 0; round < KILL_ROUNDS_MAX && waitpid(-1, NULL, WNOHANG) >= 0; round++) {
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, buffer, sizeof buffer - 1);
    close(fd);
    buffer[n > 0 ? n : 0] = 0;
    for (rest = buffer; (word = strsep(&rest, " "));)
      if (atoi(word) > 1) kill(-atoi(word), SIGKILL), kill(atoi(word), SIGKILL);
    while (waitpid(-1, NULL, WNOHANG) > 0);
    poll(NULL, 0, 1);
  }
}

static void set_up_process(void) {
  sigset_t all;
  init = getpid() == 1;
  for (int i = 1; i <= 64; i++) signal(i, SIG_DFL);
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_DUMPABLE, 0);
  signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0 || !loop_watch(signals, EPOLLIN, FROM_SIGNALS, 0, 0)) die("signalfd", errno);
}

/* Standard streams that lead nowhere, so that no command inherits one that leads somewhere. */
static void close_standard(int last) {
  int fd = open("/dev/null", O_RDWR);
  if (fd < 0) die("/dev/null", errno);
  for (int i = 0; i <= last; i++) dup2(fd, i);
  if (fd > 2) close(fd);
}

static void listen_at(const char *path, int ready) {
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (strlen(path) >= sizeof address.sun_path) die(path, ENAMETOOLONG);
  strcpy(address.sun_path, path);
  unlink(path);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  umask(0177);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 16) < 0 ||
      !loop_watch(listener, EPOLLIN, FROM_LISTENER, 0, 0)) die(path, errno);
  umask(022);
  if (ready >= 0 && write(ready, "\n", 1) < 0) die("--ready-fd", errno);
  if (ready > 2) close(ready);
  close_standard(init ? 2 : 1);
}

static void use_stdio(void) {
  int fds[] = { fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3) };
  for (int i = 0; i < 2; i++)
    if (fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK) < 0) die("standard streams", errno);
  close_standard(1);
  if (!connection_open(fds[0], fds[1])) die("standard streams", errno);
}

/* A port has a host at its other end, or is hung up; nothing announces that one came, so it is asked. */
static void use_device(const char *path) {
  struct pollfd port = { .fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), .events = POLLOUT };
  while (!stop && port.fd >= 0 && poll(&port, 1, 0) >= 0 && port.revents & POLLHUP) loop_turn(DEVICE_POLL_MS);
  if (port.fd < 0) loop_turn(DEVICE_POLL_MS);
  else if (!connection_open(port.fd, port.fd)) connection_close();
}

int main(int argc, char **argv) {
  const char *path = NULL, *device = NULL, *emitted = NULL;
  bool stdio = false, keep = false;
  int ready = -1;
  umask(022);
  if (!strcmp(program_invocation_short_name, "bramble-emit")) {
    argv[0] = "emit";
    return applet_main(argc, argv);
  }
  if (argc > 1 && argv[1][0] != '-') return applet_main(argc - 1, argv + 1);
  for (int i = 1; i < argc; i++) {
    bool more = i + 1 < argc;
    if (!strcmp(argv[i], "--stdio")) stdio = true;
    else if (!strcmp(argv[i], "--keep")) keep = true;
    else if (!strcmp(argv[i], "--relay")) relay = true;
    else if (!strcmp(argv[i], "--events") && more) emitted = argv[++i];
    else if (!strcmp(argv[i], "--listen") && more) path = argv[++i];
    else if (!strcmp(argv[i], "--open") && more) device = argv[++i];
    else if (!strcmp(argv[i], "--ready-fd") && more) ready = atoi(argv[++i]);
    else die(argv[i], EINVAL);
  }
  if (stdio + !!path + !!device != 1) die("one of --stdio, --listen PATH, --open PATH", EINVAL);
  syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
  set_up_process();
  once = stdio || (!init && !keep);
  if (emitted && (log_listen(emitted), errno)) die(emitted, errno);
  if (path) listen_at(path, ready);
  else if (stdio) use_stdio();
  else close_standard(1);
  if (chdir("/") < 0) die("/", errno);
  while (!stop) {
    if (device && connection.in < 0) use_device(device);
    loop_turn(-1);
  }
  connection_close();
  if (!init) kill_descendants();
  return 0;
}
