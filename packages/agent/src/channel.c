/* The commands of the connection, one to a channel: their pipes, their credit, their end. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct stream {
  int fd;
  bool ready, hung_up, discard, last, wide; /* `last`: only `left` bytes more, then it is closed */
  uint32_t credit, left;
};

struct channel {
  uint32_t id, serial;
  enum { STARTING, RUNNING, ENDED, DETACHED } state;
  bool linger, reaped, in_ready, in_watched, in_eof;
  pid_t pid;
  int report, in, status;
  struct stream streams[2];
  uint8_t *buffer; /* of standard input, STDIN_BYTES_MAX, there only while the command is behind */
  uint32_t in_start, in_end, in_credit, in_grant;
  int64_t deadline; /* of the linger; -1 none */
  struct rusage usage;
};

static struct channel *channels[CHANNELS_MAX];
static unsigned slots; /* slots past this one were never used */
static unsigned live;  /* channels the host knows */
static uint32_t serials;
static uint8_t scratch[CHUNK_BYTES_MAX] __attribute__((aligned(4096)));
static bool scratched;

struct channel *channel_find(uint32_t id)
{
  for (unsigned i = 0; i < slots; i++)
    if (channels[i] && channels[i]->id == id && channels[i]->state != DETACHED) return channels[i];
  return NULL;
}

static void close_fd(int *fd)
{
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void close_stdin(struct channel *channel)
{
  close_fd(&channel->in);
  if (channel->buffer) munmap(channel->buffer, STDIN_BYTES_MAX);
  channel->buffer = NULL;
  channel->in_grant += channel->in_end - channel->in_start;
  channel->in_start = channel->in_end = 0;
}

static void forget(unsigned slot)
{
  struct channel *channel = channels[slot];
  close_stdin(channel);
  close_fd(&channel->report);
  for (int i = 0; i < 2; i++) close_fd(&channel->streams[i].fd);
  if (channel->state != DETACHED) live--;
  free(channel);
  channels[slot] = NULL;
}

/* A free slot; where there is none, that of the oldest detached channel, whose daemon loses its reader. */
static int slot_take(void)
{
  int found = -1;
  for (unsigned i = 0; i < CHANNELS_MAX; i++) {
    if (!channels[i]) {
      if (i >= slots) slots = i + 1;
      return (int)i;
    }
    if (channels[i]->state == DETACHED && (found < 0 || channels[i]->serial < channels[found]->serial)) found = (int)i;
  }
  if (found >= 0) forget((unsigned)found);
  return found;
}

static void failed(uint32_t id, enum step step, int error)
{
  const char *words = step == STEP_USER && error == ENOENT ? "No such user or group" : strerrordesc_np(error);
  if (!words) words = "Unknown error";
  uint8_t payload[5 + 64];
  size_t length = strnlen(words, 64);
  put32(payload, (uint32_t)error);
  payload[4] = (uint8_t)step;
  memcpy(payload + 5, words, length);
  connection_send(FAILED, id, payload, 5 + (uint32_t)length);
}

/* A pipe with our end (0 reads, 1 writes) not blocking. */
static bool make_pipe(int ends[2], int ours)
{
  if (pipe2(ends, O_CLOEXEC) == 0) {
    if (fcntl(ends[ours], F_SETFL, O_NONBLOCK) == 0) return true;
    close(ends[0]);
    close(ends[1]);
  }
  ends[0] = ends[1] = -1;
  return false;
}

void channel_exec(uint32_t id, const struct exec_request *request)
{
  int slot = slot_take();
  if (slot < 0) return connection_refuse(id, TOO_MANY_CHANNELS);
  struct channel *channel = calloc(1, sizeof *channel);
  if (!channel) return failed(id, STEP_FORK, ENOMEM);
  channels[slot] = channel;
  live++;
  *channel = (struct channel){ .id = id, .serial = ++serials, .linger = request->linger, .deadline = -1,
                               .in_ready = true, .in_credit = request->stdin_pipe ? STDIN_BYTES_MAX : 0 };
  int out[2] = { -1, -1 }, err[2] = { -1, -1 }, report[2] = { -1, -1 }, in[2] = { -1, -1 };
  enum step step = STEP_PIPES;
  bool good = make_pipe(out, 0) && make_pipe(err, 0) && make_pipe(report, 0) && (!request->stdin_pipe || make_pipe(in, 1));
  channel->streams[0] = (struct stream){ .fd = out[0], .credit = request->credit[0] };
  channel->streams[1] = (struct stream){ .fd = err[0], .credit = request->credit[1] };
  channel->report = report[0];
  channel->in = in[1];
  good = good && loop_watch(out[0], EPOLLIN, FROM_STDOUT, (uint32_t)slot, channel->serial) &&
         loop_watch(err[0], EPOLLIN, FROM_STDERR, (uint32_t)slot, channel->serial) &&
         loop_watch(report[0], EPOLLIN, FROM_REPORT, (uint32_t)slot, channel->serial);
  if (good) {
    step = STEP_FORK;
    channel->pid = spawn_command(request, in[0], out[1], err[1], report[1]);
    good = channel->pid > 0;
  }
  int error = errno;
  close_fd(&in[0]);
  close_fd(&out[1]);
  close_fd(&err[1]);
  close_fd(&report[1]);
  if (good) return;
  failed(id, step, error);
  forget((unsigned)slot);
}

/* Hands buffered standard input to the command. */
static void pump_stdin(struct channel *channel)
{
  while (channel->in >= 0 && channel->in_ready && channel->in_start < channel->in_end) {
    ssize_t n = write(channel->in, channel->buffer + channel->in_start, channel->in_end - channel->in_start);
    if (n > 0) {
      channel->in_start += (uint32_t)n;
      channel->in_grant += (uint32_t)n;
    } else if (errno == EAGAIN) channel->in_ready = false;
    else close_stdin(channel); /* nobody reads any more */
  }
  if (channel->buffer && channel->in_start == channel->in_end) {
    munmap(channel->buffer, STDIN_BYTES_MAX);
    channel->buffer = NULL;
    channel->in_start = channel->in_end = 0;
  }
  if (channel->in_eof && !channel->buffer) close_stdin(channel);
}

void channel_stdin(struct channel *channel, const uint8_t *data, uint32_t length)
{
  if (length > channel->in_credit || channel->in_eof) return connection_refuse(channel->id, CREDIT_OVERRUN);
  channel->in_credit -= length;
  if (channel->in >= 0 && channel->in_ready && !channel->buffer) {
    ssize_t n = length ? write(channel->in, data, length) : 0;
    if (n < 0 && errno == EAGAIN) channel->in_ready = false;
    else if (n < 0) close_stdin(channel);
    if (n > 0) {
      data += n;
      length -= (uint32_t)n;
      channel->in_grant += (uint32_t)n;
    }
  }
  if (channel->in < 0) channel->in_grant += length; /* swallowed */
  if (channel->in < 0 || !length) return;
  if (!channel->in_watched) {
    uint32_t slot = 0;
    while (channels[slot] != channel) slot++;
    channel->in_watched = loop_watch(channel->in, EPOLLOUT, FROM_STDIN, slot, channel->serial);
  }
  if (!channel->buffer) {
    void *memory = mmap(NULL, STDIN_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) channel->buffer = memory;
  }
  if (!channel->buffer || !channel->in_watched) {
    /* A command must not take half its input for the whole. */
    signal_group(channel->pid, channel->reaped, SIGKILL);
    channel->in_grant += length;
    return close_stdin(channel);
  }
  memmove(channel->buffer, channel->buffer + channel->in_start, channel->in_end - channel->in_start);
  channel->in_end -= channel->in_start;
  channel->in_start = 0;
  memcpy(channel->buffer + channel->in_end, data, length);
  channel->in_end += length;
}

void channel_stdin_eof(struct channel *channel)
{
  channel->in_eof = true;
}

static struct stream *stream_of(struct channel *channel, uint8_t stream)
{
  return stream == 1 || stream == 2 ? &channel->streams[stream - 1] : NULL;
}

bool channel_credit(struct channel *channel, uint8_t stream, uint32_t bytes)
{
  struct stream *target = stream_of(channel, stream);
  if (!target) return false;
  target->credit = bytes > UINT32_MAX - target->credit ? UINT32_MAX : target->credit + bytes;
  return true;
}

bool channel_discard(struct channel *channel, uint8_t stream)
{
  struct stream *target = stream_of(channel, stream);
  if (target) target->discard = true;
  return target;
}

void channel_signal(struct channel *channel, uint8_t signal)
{
  signal_group(channel->pid, channel->reaped, signal);
}

/* Reads while there is output, credit and room, and hands it on. */
static void pump_stream(struct channel *channel, int index)
{
  struct stream *stream = &channel->streams[index];
  size_t taken = 0;
  while (stream->fd >= 0 && (stream->ready || stream->last)) {
    size_t want = CHUNK_BYTES_MAX;
    if (stream->last && stream->left < want) want = stream->left;
    if (!stream->discard && stream->credit < want) want = stream->credit;
    if (stream->last && !stream->left) {
      if (!stream->discard) stream->credit = 0;
      stream->discard = true; /* a daemon goes on writing into nothing */
      return;
    }
    if (!want || (!stream->discard && !connection_fits(want))) return;
    if (taken >= TURN_BYTES_MAX) {
      loop_again = true;
      return;
    }
    ssize_t n = read(stream->fd, stream->discard ? scratch : connection_room(want), want);
    if (n > 0) {
      taken += (size_t)n;
      scratched |= stream->discard;
      if (stream->last) stream->left -= (uint32_t)n;
      if (!stream->discard) {
        stream->credit -= (uint32_t)n;
        connection_commit(index ? STDERR : STDOUT, channel->id, (uint32_t)n);
        connection_flush();
      }
      if ((size_t)n < want && !stream->hung_up) stream->ready = false;
      if (n == CHUNK_BYTES_MAX && !stream->wide) {
        fcntl(stream->fd, F_SETPIPE_SZ, PIPE_BYTES);
        stream->wide = true;
      }
    } else if (n < 0 && errno == EAGAIN) {
      stream->ready = false;
      if (stream->last) stream->left = 0;
    } else close_fd(&stream->fd);
  }
}

static void send_exit(struct channel *channel)
{
  uint8_t payload[28] = { WIFSIGNALED(channel->status),
                          (uint8_t)(WIFSIGNALED(channel->status) ? WTERMSIG(channel->status) : WEXITSTATUS(channel->status)) };
  const struct timeval *times[] = { &channel->usage.ru_utime, &channel->usage.ru_stime };
  for (int i = 0; i < 3; i++) {
    uint64_t value = i == 2 ? (uint64_t)channel->usage.ru_maxrss << 10
                            : (uint64_t)times[i]->tv_sec * 1000000 + (uint64_t)times[i]->tv_usec;
    put32(payload + 4 + 8 * i, (uint32_t)value);
    put32(payload + 8 + 8 * i, (uint32_t)(value >> 32));
  }
  connection_send(EXIT, channel->id, payload, sizeof payload);
}

/* Whether the command has begun; reports it, or why not (then the channel is gone). */
static bool begin(unsigned slot)
{
  struct channel *channel = channels[slot];
  struct report report;
  ssize_t n = read(channel->report, &report, sizeof report);
  if (n < 0 && errno == EAGAIN) return false;
  if (n == sizeof report) {
    failed(channel->id, (enum step)report.step, report.error);
    forget(slot);
    return false;
  }
  close_fd(&channel->report);
  channel->state = channel->reaped ? ENDED : RUNNING;
  uint8_t pid[4];
  put32(pid, (uint32_t)channel->pid);
  connection_send(STARTED, channel->id, pid, sizeof pid);
  return true;
}

/* The linger is over: of each stream, what is in the pipe now is still delivered. */
static void cut(struct channel *channel)
{
  channel->deadline = -1;
  for (int i = 0; i < 2; i++) {
    struct stream *stream = &channel->streams[i];
    int bytes = 0;
    if (stream->fd < 0) continue;
    if (!stream->discard && ioctl(stream->fd, FIONREAD, &bytes) < 0) bytes = 0;
    stream->last = true;
    stream->left = (uint32_t)bytes;
  }
}

static bool done(const struct stream *stream)
{
  return stream->fd < 0 || (stream->last && !stream->left);
}

static void step(unsigned slot)
{
  struct channel *channel = channels[slot];
  if (channel->state == STARTING && !begin(slot)) return;
  if (channel->deadline >= 0 && now_ms() >= channel->deadline) cut(channel);
  if (channel->state != DETACHED) {
    pump_stdin(channel);
    if (channel->in_grant >= STDIN_BYTES_MAX / 2 && !channel->in_eof && connection_fits(4)) {
      uint8_t bytes[4];
      put32(bytes, channel->in_grant);
      connection_send(STDIN_CREDIT, channel->id, bytes, sizeof bytes);
      channel->in_credit += channel->in_grant;
      channel->in_grant = 0;
    }
  }
  for (int i = 0; i < 2; i++) pump_stream(channel, i);
  bool open = channel->streams[0].fd >= 0 || channel->streams[1].fd >= 0;
  if (channel->state == DETACHED && !open) forget(slot);
  if (channel->state != ENDED || channel->state == DETACHED) return;
  if (!done(&channel->streams[0]) || !done(&channel->streams[1])) {
    if (channel->deadline < 0 && !channel->linger && !channel->streams[0].last && !channel->streams[1].last)
      channel->deadline = now_ms() + LINGER_MS;
    return;
  }
  send_exit(channel);
  if (!open) return forget(slot);
  close_stdin(channel);
  channel->state = DETACHED;
  channel->deadline = -1;
  for (int i = 0; i < 2; i++) {
    channel->streams[i].discard = true;
    channel->streams[i].last = false;
  }
  live--;
}

void channels_step(void)
{
  for (unsigned i = 0; i < slots; i++)
    if (channels[i]) step(i);
  while (slots && !channels[slots - 1]) slots--;
  if (live) return;
  connection_shrink();
  if (scratched) madvise(scratch, sizeof scratch, MADV_DONTNEED);
  scratched = false;
}

void channel_event(uint32_t slot, uint32_t serial, enum source source, uint32_t events)
{
  struct channel *channel = slot < slots ? channels[slot] : NULL;
  if (!channel || channel->serial != serial) return;
  if (source == FROM_STDIN) channel->in_ready = true;
  if (source != FROM_STDOUT && source != FROM_STDERR) return;
  struct stream *stream = &channel->streams[source == FROM_STDERR];
  stream->ready = true;
  stream->hung_up |= !!(events & (EPOLLHUP | EPOLLERR));
}

void channel_ended(pid_t pid, int status, const struct rusage *usage)
{
  for (unsigned i = 0; i < slots; i++) {
    struct channel *channel = channels[i];
    if (!channel || channel->pid != pid || channel->reaped) continue;
    channel->reaped = true;
    channel->status = status;
    channel->usage = *usage;
    if (channel->state == RUNNING) channel->state = ENDED;
    return;
  }
}

/* The connection ended: its commands are killed. What they left behind, detached, lives on. */
void channels_kill(void)
{
  for (unsigned i = 0; i < slots; i++) {
    if (!channels[i] || channels[i]->state == DETACHED) continue;
    signal_group(channels[i]->pid, channels[i]->reaped, SIGKILL);
    forget(i);
  }
}

/* When the next linger is over, or -1. */
int64_t channels_deadline(void)
{
  int64_t first = -1;
  for (unsigned i = 0; i < slots; i++)
    if (channels[i] && channels[i]->deadline >= 0 && (first < 0 || channels[i]->deadline < first)) first = channels[i]->deadline;
  return first;
}
