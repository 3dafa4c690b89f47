/* relay: bytes between a Unix socket in the sandbox and the standard streams, for hosts that can only run a program inside. */
#include "applets.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

/* A sandbox that has just begun listens in a moment: that long it is waited for. */
enum { TRIES_MAX = 200, TRY_MS = 10 };

/* One direction: what was read and not yet written. */
struct way { int from, to; size_t at, end; uint8_t bytes[64 << 10]; };

/* Moves what can be moved; false: an end has ended. */
static bool carry(struct way *way, short from, short to) {
  ssize_t n;
  if (way->at == way->end && from) {
    n = read(way->from, way->bytes, sizeof way->bytes);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
    way->at = 0, way->end = n > 0 ? (size_t)n : 0;
    to = POLLOUT; /* most often there is room */
  }
  if (way->at < way->end && to) {
    n = write(way->to, way->bytes + way->at, way->end - way->at);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    way->at += n > 0 ? (size_t)n : 0;
  }
  return true;
}

int applet_relay(int argc, char **argv) {
  static struct way ways[2];
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  (void)argc;
  if (strlen(argv[0]) >= sizeof address.sun_path) return complain(1, argv[0], ENAMETOOLONG);
  strcpy(address.sun_path, argv[0]);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (int tries = 0; fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0; poll(NULL, 0, TRY_MS))
    if (fd < 0 || (errno != ENOENT && errno != ECONNREFUSED) || ++tries == TRIES_MAX) return complain(1, argv[0], errno);
  ways[0].from = 0, ways[0].to = fd, ways[1].from = fd, ways[1].to = 1;
  for (int i = 0; i < 3; i++) {
    int each = i == 2 ? fd : i;
    fcntl(each, F_SETFL, fcntl(each, F_GETFL) | O_NONBLOCK);
  }
  for (;;) {
    struct pollfd fds[4];
    for (int i = 0; i < 2; i++) {
      const struct way *way = &ways[i];
      bool empty = way->at == way->end;
      fds[2 * i] = (struct pollfd){ .fd = empty ? way->from : -1, .events = POLLIN };
      /* Standard output is heard also when it only hangs up; what hangs up on the socket is heard where it is read. */
      fds[2 * i + 1] = (struct pollfd){ .fd = empty && i == 0 ? -1 : way->to, .events = empty ? 0 : POLLOUT };
    }
    if (poll(fds, 4, -1) < 0 && errno != EINTR) return complain(1, "poll", errno);
    for (int i = 0; i < 2; i++)
      if (!carry(&ways[i], fds[2 * i].revents, fds[2 * i + 1].revents)) return 0;
    if (fds[3].revents & (POLLERR | POLLHUP)) return 0;
  }
}
