/* The commands of the connection, one to a channel: their pipes, their credit, their end. */
#include "agent.h"
#include <sys/ioctl.h>

struct stream {
  int fd;
  bool ready, discard, last, wide; /* `last`: only `left` bytes more */
  uint32_t credit, left;
};

/* DETACHED: the host knows it no more, but a daemon still writes into its pipes; that is read and thrown away. */
static struct channel {
  enum { FREE, STARTING, RUNNING, ENDED, DETACHED } state;
  bool linger, reaped, in_ready, in_eof;
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

static void failed(struct channel *channel, enum step step, int error) {
  const char *words = step == STEP_USER && error == ENOENT ? "No such user or group" : strerrordesc_np(error);
  uint8_t payload[5 + 64] = { [4] = (uint8_t)step };
  size_t length = words ? strnlen(words, 64) : 0;
  put32(payload, (uint32_t)error);
  if (words) memcpy(payload + 5, words, length);
  connection_send(FAILED, channel->id, payload, 5 + (uint32_t)length);
  release(channel);
}

void channel_exec(uint32_t id, const struct exec_request *request) {
  static const enum source sources[] = { FROM_STDOUT, FROM_STDERR, FROM_REPORT, FROM_STDIN };
  struct channel *channel = take();
  if (!channel) return connection_refuse(id, TOO_MANY_CHANNELS);
  *channel = (struct channel){ .state = STARTING, .id = id, .serial = ++serials, .linger = request->linger,
                               .deadline = -1, .in_ready = true, .in_credit = request->stdin_pipe ? STDIN_BYTES_MAX : 0 };
  int pipes[4][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 } };
  bool piped = true;
  for (int i = 0; i < (request->stdin_pipe ? 4 : 3) && piped; i++) {
    int ours = i == 3; /* 0 reads, 1 writes: it does not block and is watched */
    piped = pipe2(pipes[i], O_CLOEXEC) == 0 && fcntl(pipes[i][ours], F_SETFL, O_NONBLOCK) == 0 &&
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
  if (channel->in_eof && !channel->in_end) close_fd(&channel->in);
  if (channel->in_grant < STDIN_BYTES_MAX / 2 || channel->in_eof || !connection_fits(4)) return;
  uint8_t bytes[4];
  put32(bytes, channel->in_grant);
  connection_send(STDIN_CREDIT, channel->id, bytes, sizeof bytes);
  channel->in_credit += channel->in_grant;
  channel->in_grant = 0;
}

/* A frame of the host about this command; its length is that of its type. */
void channel_frame(struct channel *channel, uint8_t type, const uint8_t *payload, uint32_t length) {
  uint8_t first = length ? payload[0] : 0;
  struct stream *stream = first == 1 || first == 2 ? &channel->streams[first - 1] : NULL;
  if (type == STDIN) take_input(channel, payload, length);
  else if (type == STDIN_EOF) channel->in_eof = true;
  else if (type == SIGNAL && first >= 1 && first <= 64) signal_group(channel->pid, channel->reaped, first);
  else if (type == DISCARD && stream) stream->discard = true;
  else if (type == CREDIT && stream) {
    uint32_t bytes = get32(payload + 1);
    stream->credit = bytes > UINT32_MAX - stream->credit ? UINT32_MAX : stream->credit + bytes;
  } else connection_refuse(channel->id, BAD_FIELDS);
}

/* Reads while there is output, credit and room, and hands it on. */
static void pump_stream(struct channel *channel, struct stream *stream) {
  static uint8_t scratch[16 << 10];
  size_t taken = 0;
  while (stream->fd >= 0 && (stream->ready || stream->last)) {
    size_t want = stream->discard ? sizeof scratch : CHUNK_BYTES_MAX;
    if (stream->last && stream->left < want) want = stream->left;
    if (!stream->discard && stream->credit < want) want = stream->credit;
    if (!want || (!stream->discard && !connection_fits(want))) return;
    if (taken >= TURN_BYTES_MAX) return (void)(loop_again = true);
    ssize_t n = read(stream->fd, stream->discard ? scratch : connection_room(want), want);
    if (n <= 0) {
      stream->ready = false;
      stream->left = 0;
      if (n == 0 || errno != EAGAIN) close_fd(&stream->fd);
      return;
    }
    taken += (size_t)n;
    if (stream->last) stream->left -= (uint32_t)n;
    if (n == CHUNK_BYTES_MAX && !stream->wide) stream->wide = fcntl(stream->fd, F_SETPIPE_SZ, PIPE_BYTES) != 0;
    if (stream->discard) continue;
    stream->credit -= (uint32_t)n;
    connection_commit(stream == channel->streams ? STDOUT : STDERR, channel->id, (uint32_t)n);
    connection_flush();
  }
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
  connection_send(STARTED, channel->id, pid, sizeof pid);
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
  connection_send(EXIT, channel->id, payload, sizeof payload);
  if (channel->streams[0].fd < 0 && channel->streams[1].fd < 0) return release(channel);
  drop_input(channel);
  close_fd(&channel->in);
  channel->state = DETACHED;
  for (int i = 0; i < 2; i++) channel->streams[i].discard = true, channel->streams[i].last = false;
}

static void step(struct channel *channel) {
  struct stream *out = &channel->streams[0], *err = &channel->streams[1];
  if (channel->state == STARTING && !begin(channel)) return;
  if (channel->deadline >= 0 && now_ms() >= channel->deadline) cut(channel);
  if (channel->state != DETACHED) pump_input(channel);
  pump_stream(channel, out);
  pump_stream(channel, err);
  if (channel->state == DETACHED && out->fd < 0 && err->fd < 0) release(channel);
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

void channel_event(uint32_t slot, uint32_t serial, enum source source) {
  struct channel *channel = &channels[slot];
  if (slot >= CHANNELS_MAX || channel->state == FREE || channel->serial != serial) return;
  if (source == FROM_STDIN) channel->in_ready = true;
  if (source == FROM_STDOUT || source == FROM_STDERR) channel->streams[source == FROM_STDERR].ready = true;
}

void channel_ended(pid_t pid, int status, const struct rusage *usage) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE || channel->pid != pid || channel->reaped) continue;
    channel->reaped = true;
    channel->status = status;
    channel->usage = *usage;
    if (channel->state == RUNNING) channel->state = ENDED;
  }
}

/* The connection ended: its commands are killed. What they left behind, detached, lives on. */
void channels_kill(void) {
  for (struct channel *channel = channels; channel < channels + CHANNELS_MAX; channel++) {
    if (channel->state == FREE || channel->state == DETACHED) continue;
    signal_group(channel->pid, channel->reaped, SIGKILL);
    release(channel);
  }
}
