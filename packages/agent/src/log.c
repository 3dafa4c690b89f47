/* The log: what named commands say, and what programs emit, kept until the host has acknowledged it and room is wanted.
 * It outlives the connection; a new one begins with all of it. */
#include "agent.h"
#include <sys/socket.h>
#include <sys/un.h>

enum {
  LOG_BYTES_MAX = 256 << 10,
  LOG_OUTPUT_BYTES_MAX = 192 << 10, /* output waits in its pipe while more than this is not acknowledged; the rest is for
                                       what must not wait: STARTED, EXIT, FAILED */
  EVENT_BYTES_MAX = 8 << 10,
};

/* Whole frames as they were sent, one behind the other, from `start` to `end`; before `acked` nothing must be kept. */
static uint8_t entries[2 * LOG_BYTES_MAX] __attribute__((aligned(4096)));
static size_t start, acked, end;
static uint64_t first_seq = 1, acked_seq = 1, next_seq = 1; /* numbers of the frames at `start`, `acked`, `end` */
static int events = -1;
static bool events_ready;

static size_t frame_bytes(size_t at) { return HEADER_BYTES + get32(entries + at); }

static void put64(uint8_t *at, uint64_t value) {
  put32(at, (uint32_t)value);
  put32(at + 4, (uint32_t)(value >> 32));
}

/* How many bytes of output one more entry may have now, for a command with a name of that length. */
size_t log_room(size_t name) {
  size_t used = end - acked + HEADER_BYTES + 1 + name;
  return used >= LOG_OUTPUT_BYTES_MAX ? 0 : LOG_OUTPUT_BYTES_MAX - used;
}

static void forget_first(void) {
  if (acked == start) acked += frame_bytes(start), acked_seq++; /* only where a host starts commands and acknowledges nothing */
  start += frame_bytes(start);
  first_seq++;
}

/* Adds an entry, and sends it where there is a connection; the caller knows that it fits there. */
void log_append(uint8_t type, uint32_t channel, struct text name, const void *body, uint32_t length) {
  uint32_t payload = 1 + name.length + length;
  size_t bytes = HEADER_BYTES + payload;
  while (end - start + bytes > LOG_BYTES_MAX) forget_first();
  if (end + bytes > sizeof entries) {
    memmove(entries, entries + start, end - start);
    acked -= start, end -= start, start = 0;
  }
  uint8_t *frame = entries + end;
  put32(frame, payload);
  put32(frame + 4, type | FLAG_KEPT << 8);
  put32(frame + 8, channel);
  frame[HEADER_BYTES] = (uint8_t)name.length;
  if (name.length) memcpy(frame + HEADER_BYTES + 1, name.at, name.length);
  if (length) memcpy(frame + HEADER_BYTES + 1 + name.length, body, length);
  end += bytes;
  next_seq++;
  connection_send_frame(frame, bytes);
}

void log_acknowledge(uint64_t seq) {
  for (; acked < end && acked_seq <= seq; acked_seq++) acked += frame_bytes(acked);
}

/* The first frames of a connection, whose send buffer is empty and holds them all. */
void log_replay(void) {
  uint8_t hello[28] = { PROTOCOL_VERSION, [6] = PAYLOAD_BYTES_MAX >> 16 };
  put64(hello + 8, first_seq);
  put64(hello + 16, next_seq);
  put32(hello + 24, channels_named());
  connection_send(HELLO, 0, hello, sizeof hello);
  channels_announce();
  for (size_t at = start; at < end; at += frame_bytes(at)) connection_send_frame(entries + at, frame_bytes(at));
}

void log_listen(const char *path) {
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (strlen(path) >= sizeof address.sun_path) return (void)(errno = ENAMETOOLONG);
  strcpy(address.sun_path, path);
  unlink(path);
  events = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  mode_t mask = umask(0111);
  bool bound = events >= 0 && bind(events, (struct sockaddr *)&address, sizeof address) == 0 &&
               loop_watch(events, EPOLLIN, FROM_EVENTS, 0, 0);
  umask(mask);
  if (bound) errno = 0;
}

void log_event(void) { events_ready = true; }

/* Takes datagrams while there is room for them; senders wait meanwhile (unix(7)). */
void log_step(void) {
  static uint8_t datagram[EVENT_BYTES_MAX + 1];
  for (int turn = 0; events_ready && log_room(0) >= EVENT_BYTES_MAX; turn++) {
    if (connection.out >= 0 && !connection_fits(EVENT_BYTES_MAX + 1)) return;
    if (turn == 64) return (void)(loop_again = true);
    ssize_t n = recv(events, datagram, sizeof datagram, 0);
    if (n < 0) events_ready = false;
    else if (n > 0 && n <= EVENT_BYTES_MAX) log_append(EVENT, 0, (struct text){ NULL, 0 }, datagram, (uint32_t)n);
  }
}
