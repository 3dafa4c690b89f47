/* The commands of the connection, one to a channel: their pipes, their credit, their end. */
#include "agent.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct stream {
  int fd;
  bool ready, ending, discard, last, wide; /* `ending`: its end is behind what it has; `last`: only `left` bytes more */
  uint32_t credit, left;
};

/* DETACHED: the host knows it no more, but a daemon still writes into its pipes; that is read and thrown away. */
static struct channel {
  enum { FREE, STARTING, RUNNING, ENDED, DETACHED } state;
  enum { PIPES, TERMINAL, SOCKET } kind; /* a socket has no process */
  bool linger, reaped, in_ready, in_eof;
  uint8_t name_bytes, name[NAME_BYTES_MAX];
  pid_t pid;
  int report, in, status;
  struct stream streams[2];
  uint32_t id, serial, in_start, in_end, in_credit, in_grant;
  int64_t deadline; /* of the linger, or -1 */
  struct rusage usage;
} channels[CHANNELS_MAX];

/* Standard input that a command is behind with: resident only while there is some. */
static uint8_t inputs[CHANNELS_MAX][STDIN_BYTES_MAX] __attribute__((aligned(4096)));
static uint32_t serials;
int64_t channels_deadline = -1;

static uint32_t slot_of(const struct channel *channel) { return (uint32_t)(channel - channels); }

struct channel *channel_find(uint32_t id) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++)
    if (channel->id == id && channel->state != FREE && channel->state != DETACHED) return channel;
  return NULL;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void drop_input(struct channel *channel) {
  if (channel->in_end) madvise(inputs[slot_of(channel)], STDIN_BYTES_MAX, MADV_DONTNEED);
  channel->in_grant += channel->in_end - channel->in_start;
  channel->in_start = channel->in_end = 0;
}

static void release(struct channel *channel) {
  drop_input(channel);
  close_fd(&channel->in);
  close_fd(&channel->report);
  for (int i = 0; i < 2; i++) close_fd(&channel->streams[i].fd);
  channel->state = FREE;
}

/* A free channel; where there is none, the oldest detached one, whose daemon loses its reader. */
static struct channel *take(void) {
  struct channel *oldest = NULL;
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE) return channel;
    if (channel->state == DETACHED && (!oldest || channel->serial < oldest->serial)) oldest = channel;
  }
  if (oldest) release(oldest);
  return oldest;
}

static struct text name_of(const struct channel *channel) { return (struct text){ channel->name, channel->name_bytes }; }

/* What a command says of its life: into the log where it has a name. */
static void say(const struct channel *channel, uint8_t type, const void *payload, uint32_t length) {
  if (channel->name_bytes) log_append(type, channel->id, name_of(channel), payload, length);
  else connection_send(type, channel->id, payload, length);
}

static uint32_t describe(uint8_t payload[5 + 64], enum step step, int error) {
  const char *words = step == STEP_USER && error == ENOENT ? "No such user or group" : strerrordesc_np(error);
  size_t length = words ? strnlen(words, 64) : 0;
  put32(payload, (uint32_t)error);
  payload[4] = (uint8_t)step;
  if (words) memcpy(payload + 5, words, length);
  return 5 + (uint32_t)length;
}

static void failed(struct channel *channel, enum step step, int error) {
  uint8_t payload[5 + 64];
  say(channel, FAILED, payload, describe(payload, step, error));
  release(channel);
}

/* There is no channel for it; of a named command the log has to tell. */
static void turn_away(uint32_t id, struct text name) {
  uint8_t payload[5 + 64];
  if (name.length) log_append(FAILED, id, name, payload, describe(payload, STEP_FORK, EAGAIN));
  else connection_refuse(id, TOO_MANY_CHANNELS);
}

/* A terminal in place of three pipes: ours reads and writes at `pipes[0][0]` and `pipes[3][1]`. */
static bool open_terminal(const struct exec_request *request, int pipes[4][2]) {
  struct winsize size = { .ws_col = request->cols, .ws_row = request->rows };
  int ours = pipes[0][0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), unlocked = 0;
  if (ours < 0 || ioctl(ours, TIOCSPTLCK, &unlocked) < 0 || ioctl(ours, TIOCSWINSZ, &size) < 0) return false;
  pipes[3][1] = fcntl(ours, F_DUPFD_CLOEXEC, 0);
  pipes[3][0] = ioctl(ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  pipes[0][1] = fcntl(pipes[3][0], F_DUPFD_CLOEXEC, 0);
  pipes[1][1] = fcntl(pipes[3][0], F_DUPFD_CLOEXEC, 0);
  return pipes[3][1] >= 0 && pipes[0][1] >= 0 && pipes[1][1] >= 0;
}

void channel_exec(uint32_t id, const struct exec_request *request) {
  static const enum source sources[] = { FROM_STDOUT, FROM_STDERR, FROM_REPORT, FROM_STDIN };
  struct channel *channel = request->name.length && channels_named() >= NAMED_MAX ? NULL : take();
  if (!channel) return turn_away(id, request->name);
  *channel = (struct channel){ .state = STARTING, .id = id, .serial = ++serials, .linger = request->linger,
                               .kind = request->pty ? TERMINAL : PIPES, .name_bytes = (uint8_t)request->name.length,
                               .deadline = -1, .in_ready = true, .in_credit = request->stdin_pipe ? STDIN_BYTES_MAX : 0 };
  if (channel->name_bytes) memcpy(channel->name, request->name.at, channel->name_bytes);
  int pipes[4][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 } };
  bool piped = !request->pty || open_terminal(request, pipes);
  for (int i = 0; i < (request->stdin_pipe ? 4 : 3) && piped; i++) {
    int ours = i == 3; /* 0 reads, 1 writes: it does not block and is watched */
    if (request->pty && i == 1) continue;
    piped = ((request->pty && i != 2) || (pipe2(pipes[i], O_CLOEXEC) == 0 && fcntl(pipes[i][ours], F_SETFL, O_NONBLOCK) == 0)) &&
            loop_watch(pipes[i][ours], ours ? EPOLLOUT : EPOLLIN, sources[i], slot_of(channel), channel->serial);
  }
  for (int i = 0; i < 2; i++) channel->streams[i] = (struct stream){ .fd = pipes[i][0], .credit = request->credit[i] };
  channel->report = pipes[2][0];
  channel->in = pipes[3][1];
  if (piped) channel->pid = spawn_command(request, pipes[3][0], pipes[0][1], pipes[1][1], pipes[2][1]);
  int error = errno;
  for (int i = 0; i < 4; i++) close_fd(&pipes[i][i < 3]);
  if (channel->pid <= 0) failed(channel, piped ? STEP_FORK : STEP_PIPES, error);
}

/* A TCP connection from here to `address`. */
void channel_connect(uint32_t id, uint16_t port, struct text address) {
  struct channel *channel = take();
  if (!channel) return connection_refuse(id, TOO_MANY_CHANNELS);
  char text[ADDRESS_BYTES_MAX + 1] = { 0 };
  memcpy(text, address.at, address.length);
  union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } to = { .v6.sin6_port = htons(port) };
  if (inet_pton(AF_INET, text, &to.v4.sin_addr) == 1) to.any.sa_family = AF_INET;
  else if (inet_pton(AF_INET6, text, &to.v6.sin6_addr) == 1) to.any.sa_family = AF_INET6;
  else return connection_refuse(id, BAD_FIELDS);
  int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, error = errno;
  *channel = (struct channel){ .state = STARTING, .kind = SOCKET, .id = id, .serial = ++serials, .deadline = -1,
                               .report = -1, .in = -1, .in_credit = STDIN_BYTES_MAX,
                               .streams = { { .fd = fd }, { .fd = -1 } } };
  if (fd < 0) return failed(channel, STEP_CONNECT, error);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  socklen_t length = to.any.sa_family == AF_INET ? sizeof to.v4 : sizeof to.v6;
  if (connect(fd, &to.any, length) < 0 && errno != EINPROGRESS) return failed(channel, STEP_CONNECT, errno);
  channel->in = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (channel->in < 0 || !loop_watch(fd, EPOLLIN | EPOLLRDHUP, FROM_STDOUT, slot_of(channel), channel->serial) ||
      !loop_watch(channel->in, EPOLLOUT, FROM_STDIN, slot_of(channel), channel->serial)) failed(channel, STEP_CONNECT, errno);
}

/* Standard input goes to the command at once where it can; what nobody will read counts as taken. */
static uint32_t write_input(struct channel *channel, const uint8_t *data, uint32_t length) {
  uint32_t taken = 0;
  while (taken < length && channel->in >= 0 && channel->in_ready) {
    ssize_t n = write(channel->in, data + taken, length - taken);
    if (n > 0) taken += (uint32_t)n;
    else if (errno == EAGAIN) channel->in_ready = false;
    else close_fd(&channel->in);
  }
  if (channel->in < 0) taken = length;
  channel->in_grant += taken;
  return taken;
}

static void take_input(struct channel *channel, const uint8_t *data, uint32_t length) {
  if (length > channel->in_credit || channel->in_eof) return connection_refuse(channel->id, CREDIT_OVERRUN);
  channel->in_credit -= length;
  uint32_t taken = channel->in_end ? 0 : write_input(channel, data, length), rest = length - taken;
  if (!rest) return;
  uint8_t *input = inputs[slot_of(channel)];
  if (channel->in_end + rest > STDIN_BYTES_MAX) {
    memmove(input, input + channel->in_start, channel->in_end - channel->in_start);
    channel->in_end -= channel->in_start;
    channel->in_start = 0;
  }
  memcpy(input + channel->in_end, data + taken, rest);
  channel->in_end += rest;
}

static void pump_input(struct channel *channel) {
  const uint8_t *input = inputs[slot_of(channel)];
  channel->in_start += write_input(channel, input + channel->in_start, channel->in_end - channel->in_start);
  if (channel->in_start == channel->in_end) drop_input(channel);
  if (channel->in_eof && !channel->in_end) {
    if (channel->kind == SOCKET && channel->in >= 0) shutdown(channel->in, SHUT_WR);
    close_fd(&channel->in);
  }
  if (channel->in_grant < STDIN_BYTES_MAX / 2 || channel->in_eof || !connection_fits(4)) return;
  uint8_t bytes[4];
  put32(bytes, channel->in_grant);
  connection_send(STDIN_CREDIT, channel->id, bytes, sizeof bytes);
  channel->in_credit += channel->in_grant;
  channel->in_grant = 0;
}

static void resize(const struct channel *channel, const uint8_t *payload) {
  struct winsize size = { .ws_col = (uint16_t)(payload[0] | payload[1] << 8), .ws_row = (uint16_t)(payload[2] | payload[3] << 8) };
  if (channel->kind == TERMINAL) ioctl(channel->streams[0].fd, TIOCSWINSZ, &size);
}

/* Ends a connection at once, both ways. */
static void hang_up(struct channel *channel) {
  struct linger none = { .l_onoff = 1 };
  if (channel->state == STARTING) return failed(channel, STEP_CONNECT, ECANCELED);
  setsockopt(channel->in >= 0 ? channel->in : channel->streams[0].fd, SOL_SOCKET, SO_LINGER, &none, sizeof none); /* a reset */
  drop_input(channel);
  close_fd(&channel->in);
  close_fd(&channel->streams[0].fd);
}

/* A frame of the host about this command; its length is that of its type. */
void channel_frame(struct channel *channel, uint8_t type, const uint8_t *payload, uint32_t length) {
  uint8_t first = length ? payload[0] : 0;
  struct stream *stream = first == 1 || first == 2 ? &channel->streams[first - 1] : NULL;
  if (type == STDIN) take_input(channel, payload, length);
  else if (type == STDIN_EOF) channel->in_eof = channel->kind != TERMINAL;
  else if (type == RESIZE) resize(channel, payload);
  else if (type == SIGNAL && first >= 1 && channel->kind == SOCKET) hang_up(channel);
  else if (type == SIGNAL && first >= 1 && first <= 64) signal_group(channel->pid, channel->reaped, first);
  else if (type == DISCARD && stream) stream->discard = true;
  else if (type == CREDIT && stream) {
    uint32_t bytes = get32(payload + 1);
    stream->credit = bytes > UINT32_MAX - stream->credit ? UINT32_MAX : stream->credit + bytes;
  } else connection_refuse(channel->id, BAD_FIELDS);
}

/* Reads while there is output, credit and room, and hands it on. */
static void pump_stream(struct channel *channel, struct stream *stream) {
  static uint8_t scratch[CHUNK_BYTES_MAX];
  size_t taken = 0;
  bool named = channel->name_bytes > 0, aside = stream->discard || named;
  uint8_t type = stream == channel->streams ? STDOUT : STDERR;
  while (stream->fd >= 0 && (stream->ready || stream->last)) {
    size_t want = stream->discard ? sizeof scratch : CHUNK_BYTES_MAX, room = named ? log_room(channel->name_bytes) : stream->credit;
    if (stream->last && stream->left < want) want = stream->left;
    if (!stream->discard && room < want) want = room;
    if (!want) return;
    if (!stream->discard && (!named || connection.out >= 0) && !connection_fits(want + 1 + channel->name_bytes)) return;
    if (taken >= TURN_BYTES_MAX) return (void)(loop_again = true);
    ssize_t n = read(stream->fd, aside ? scratch : connection_room(want), want);
    if (n <= 0) {
      stream->ready = false;
      stream->left = 0;
      if (n < 0 && errno == EAGAIN) return;
      close_fd(&stream->fd);
      if (channel->kind == SOCKET && channel->state == RUNNING) connection_send(STDOUT, channel->id, NULL, 0);
      return;
    }
    taken += (size_t)n;
    if (stream->last) stream->left -= (uint32_t)n;
    if (n == CHUNK_BYTES_MAX && !stream->wide) stream->wide = fcntl(stream->fd, F_SETPIPE_SZ, PIPE_BYTES) != 0;
    if (stream->discard) continue;
    if (named) log_append(type, channel->id, name_of(channel), scratch, (uint32_t)n);
    else stream->credit -= (uint32_t)n, connection_commit(type, channel->id, (uint32_t)n);
    connection_flush_large();
    /* epoll(7): a stream socket that gave less has no more, and says so when it has. */
    if (channel->kind == SOCKET && (size_t)n < want && !stream->ending) return (void)(stream->ready = false);
  }
}

/* Whether the connection was made; as `begin`. */
static bool connected(struct channel *channel) {
  uint8_t pid[4] = { 0 };
  int error = 0;
  socklen_t length = sizeof error;
  if (!channel->in_ready) return false;
  if (getsockopt(channel->in, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error)
    return failed(channel, STEP_CONNECT, error), false;
  channel->state = RUNNING;
  connection_send(STARTED, channel->id, pid, sizeof pid);
  return connection.urgent = true; /* nothing follows it before the host speaks */
}

/* Whether the command has begun; says so, or why not (then the channel is closed). */
static bool begin(struct channel *channel) {
  struct report report;
  uint8_t pid[4];
  ssize_t n = read(channel->report, &report, sizeof report);
  if (n < 0 && errno == EAGAIN) return false;
  if (n == sizeof report) return failed(channel, (enum step)report.step, report.error), false;
  close_fd(&channel->report);
  channel->state = channel->reaped ? ENDED : RUNNING;
  put32(pid, (uint32_t)channel->pid);
  say(channel, STARTED, pid, sizeof pid);
  return true;
}

/* The linger is over: of each stream, what is in the pipe now is still delivered. */
static void cut(struct channel *channel) {
  channel->deadline = -1;
  for (int i = 0; i < 2; i++) {
    struct stream *stream = &channel->streams[i];
    int bytes = 0;
    if (stream->fd >= 0 && !stream->discard && ioctl(stream->fd, FIONREAD, &bytes) < 0) bytes = 0;
    stream->last = true;
    stream->left = (uint32_t)bytes;
  }
}

static void finish(struct channel *channel) {
  const struct rusage *usage = &channel->usage;
  uint64_t values[] = { (uint64_t)usage->ru_utime.tv_sec * 1000000 + (uint64_t)usage->ru_utime.tv_usec,
                        (uint64_t)usage->ru_stime.tv_sec * 1000000 + (uint64_t)usage->ru_stime.tv_usec,
                        (uint64_t)usage->ru_maxrss << 10 };
  bool killed = WIFSIGNALED(channel->status);
  uint8_t payload[28] = { killed, (uint8_t)(killed ? WTERMSIG(channel->status) : WEXITSTATUS(channel->status)) };
  for (int i = 0; i < 6; i++) put32(payload + 4 + 4 * i, (uint32_t)(values[i / 2] >> 32 * (i % 2)));
  say(channel, EXIT, payload, sizeof payload);
  bool over = channel->streams[0].fd < 0 && channel->streams[1].fd < 0;
  if (over || channel->kind == TERMINAL) return release(channel); /* a terminal hangs up on whoever is left */
  drop_input(channel);
  close_fd(&channel->in);
  channel->state = DETACHED;
  for (int i = 0; i < 2; i++) channel->streams[i].discard = true, channel->streams[i].last = false;
}

static void step(struct channel *channel) {
  struct stream *out = &channel->streams[0], *err = &channel->streams[1];
  if (channel->state == STARTING && !(channel->kind == SOCKET ? connected(channel) : begin(channel))) return;
  if (channel->deadline >= 0 && now_ms() >= channel->deadline) cut(channel);
  if (channel->state != DETACHED) pump_input(channel);
  pump_stream(channel, out);
  pump_stream(channel, err);
  if (channel->state == DETACHED && out->fd < 0 && err->fd < 0) release(channel);
  if (channel->kind == SOCKET && channel->state == RUNNING && out->fd < 0 && channel->in < 0) return finish(channel);
  if (channel->state != ENDED) return;
  bool cut_off = out->last || err->last;
  if ((out->fd < 0 || (out->last && !out->left)) && (err->fd < 0 || (err->last && !err->left))) finish(channel);
  else if (!cut_off && !channel->linger && channel->deadline < 0) channel->deadline = now_ms() + LINGER_MS;
}

void channels_step(void) {
  bool busy = false;
  channels_deadline = -1;
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state != FREE) step(channel);
    if (channel->state == FREE || channel->state == DETACHED) continue;
    busy = true;
    if (channel->deadline >= 0 && (channels_deadline < 0 || channel->deadline < channels_deadline))
      channels_deadline = channel->deadline;
  }
  if (!busy) connection_shrink();
}

void channel_event(uint32_t slot, uint32_t serial, enum source source, bool ending) {
  struct channel *channel = &channels[slot];
  if (slot >= CHANNELS_MAX || channel->state == FREE || channel->serial != serial) return;
  if (source == FROM_STDIN) channel->in_ready = true;
  if (source != FROM_STDOUT && source != FROM_STDERR) return;
  struct stream *stream = &channel->streams[source == FROM_STDERR];
  stream->ready = true;
  stream->ending |= ending;
}

void channel_ended(pid_t pid, int status, const struct rusage *usage) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE || channel->kind == SOCKET || channel->pid != pid || channel->reaped) continue;
    channel->reaped = true;
    channel->status = status;
    channel->usage = *usage;
    if (channel->state == RUNNING) channel->state = ENDED;
  }
}

/* How many named commands have not ended. */
uint32_t channels_named(void) {
  uint32_t count = 0;
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++)
    count += channel->state != FREE && channel->state != DETACHED && channel->name_bytes > 0;
  return count;
}

/* Says to a new connection which named commands there are. */
void channels_announce(void) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE || channel->state == DETACHED || !channel->name_bytes) continue;
    uint8_t payload[9 + NAME_BYTES_MAX] = { (uint8_t)((channel->state != STARTING) | (channel->kind == TERMINAL) << 1 |
                                                      (channel->in >= 0 && !channel->in_eof) << 2) };
    put32(payload + 1, channel->state == STARTING ? 0 : (uint32_t)channel->pid);
    put32(payload + 5, channel->in_credit);
    memcpy(payload + 9, channel->name, channel->name_bytes);
    connection_send(CHANNEL, channel->id, payload, 9U + channel->name_bytes);
  }
}

/* The connection ended: its commands are killed, but for the named ones. What they left behind, detached, lives on. */
void channels_kill(void) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE || channel->state == DETACHED || channel->name_bytes) continue;
    if (channel->kind != SOCKET) signal_group(channel->pid, channel->reaped, SIGKILL);
    release(channel);
  }
}
