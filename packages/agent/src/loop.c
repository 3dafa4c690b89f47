/* One turn of the event loop: take events, let every party act, send what came of it in as few writes as may be. */
#include "agent.h"

bool loop_again;
static int poller = -1;

bool loop_watch(int fd, uint32_t events, enum source source, uint32_t slot, uint32_t serial) {
  if (poller < 0) poller = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = { .events = events | EPOLLET };
  event.data.u64 = (uint64_t)serial << 32 | slot << 8 | source;
  return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0;
}

static int wait_ms(int timeout_ms) {
  int64_t wait = timeout_ms < 0 ? INT32_MAX : timeout_ms, deadline = channels_deadline();
  if (loop_again) return 0;
  if (connection.tx_end > 0 && connection.writable && wait > HOLD_MS) wait = HOLD_MS;
  if (deadline >= 0 && deadline - now_ms() < wait) wait = deadline - now_ms();
  return wait == INT32_MAX ? -1 : wait < 0 ? 0 : (int)wait;
}

void loop_turn(int timeout_ms, void (*other)(enum source source)) {
  struct epoll_event events[64];
  bool others[FROM_LISTENER + 1] = { false };
  int n = epoll_wait(poller, events, 64, wait_ms(timeout_ms));
  if (n <= 0) connection.urgent = true; /* nobody else came: what was held back goes alone */
  loop_again = n == 64;
  for (int i = 0; i < n; i++) {
    enum source source = (enum source)(events[i].data.u64 & 0xff);
    uint32_t slot = events[i].data.u64 >> 8 & 0xffffff, serial = (uint32_t)(events[i].data.u64 >> 32);
    if (source <= FROM_LISTENER) others[source] = true;
    else if (source >= FROM_REPORT) channel_event(slot, serial, source, events[i].events);
    else if (serial == connection.serial) {
      if (source == FROM_CONNECTION_IN && events[i].events & ~(uint32_t)EPOLLOUT) connection.readable = true;
      if (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connection.writable = true;
    }
  }
  /* Signals after the channels' events: a command's last output is known to be there before its end is. */
  for (int source = FROM_SIGNALS; source <= FROM_LISTENER; source++)
    if (others[source]) other((enum source)source);
  if (connection.urgent) connection_flush();
  connection_receive();
  channels_step();
  if (connection.urgent) connection_flush();
  if (connection.starved && connection.writable) loop_again = true; /* the answers have room now */
  if (connection.over) connection_close();
}
