/*
 * libFuzzer over the frame parser, the channels and the loop, with commands that are played instead of forked. An input
 * is a script: frames good and bad, what the commands do, how the host reads, how time passes. Beside what the
 * sanitizers see, a model of the host checks every byte that the agent sends: order, credit, content, and that nothing
 * is lost or left open.
 */
#include "../src/agent.h"

#include <stdio.h>
#include <sys/socket.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      abort(); \
    } \
  } while (0)

enum { KIDS_MAX = 4096, IDS = 8, PEERS_MAX = 64 };

static struct kid {
  uint32_t id;
  int in, out, err, report;
  bool alive, named; /* `named`: `id` is known, because no bytes were sent that the model does not understand */
  uint64_t wrote[2], wrote_at_end[2], took;
} kids[KIDS_MAX];
static size_t kid_count;
static uint32_t next_id;
static bool next_named, no_forks;
static int64_t clock_ms;

static struct model {
  bool open, started, kept; /* `kept`: it has a name, and speaks through the log */
  int64_t credit[2];
  uint32_t stdin_credit;
  uint64_t saw[2], sent;
  bool discarded[2], eof;
  struct kid *kid;
} models[IDS];
static bool blind, greeted, refused; /* `blind`: raw bytes were sent */
static uint64_t next_seq, seen_seq; /* of the log: what comes next, and up to where this run has seen it */
static bool fresh;                  /* the first connection of a run: what the log holds is of earlier ones */
static uint32_t announced;
static int peers[PEERS_MAX], peer_count; /* the far ends of connections that the agent made */
static int host = -1;
static uint8_t inbox[1 << 21];
static size_t inbox_bytes;

static struct model *model_of(uint32_t id) {
  return id >= 1 && id <= IDS ? &models[id - 1] : NULL;
}

int64_t now_ms(void) {
  return clock_ms;
}

pid_t spawn_command(const struct exec_request *request, int in, int out, int err, int report) {
  CHECK(request->argc > 0);
  if (no_forks || kid_count == KIDS_MAX) {
    errno = EAGAIN;
    return -1;
  }
  struct text rest = request->fields, value;
  uint32_t argc = 0, envc = 0;
  uint8_t tag;
  while (field_next(&rest, &tag, &value)) {
    argc += tag == 1;
    envc += tag == 2;
    for (uint32_t i = 0; i < value.length && tag <= 4; i++) CHECK(value.at[i] != 0);
  }
  CHECK(argc == request->argc && envc == request->envc);
  struct kid *kid = &kids[kid_count++];
  *kid = (struct kid){ .id = next_id, .named = next_named, .alive = true, .in = in < 0 ? -1 : dup(in), .out = dup(out),
                       .err = dup(err), .report = dup(report) };
  if (kid->in >= 0) fcntl(kid->in, F_SETFL, O_NONBLOCK);
  fcntl(kid->out, F_SETFL, O_NONBLOCK);
  fcntl(kid->err, F_SETFL, O_NONBLOCK);
  if (kid->named && model_of(kid->id)) model_of(kid->id)->kid = kid;
  return (pid_t)kid_count;
}

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void kid_end(struct kid *kid, int status, bool keep_output) {
  struct rusage usage = { .ru_maxrss = 1000 };
  if (!kid->alive) return;
  kid->alive = false;
  memcpy(kid->wrote_at_end, kid->wrote, sizeof kid->wrote);
  shut(&kid->report);
  shut(&kid->in);
  if (!keep_output) shut(&kid->out), shut(&kid->err);
  channel_ended((pid_t)(kid - kids) + 1, status, &usage);
}

void signal_group(pid_t pid, bool reaped, int number) {
  CHECK(pid >= 1 && (size_t)pid <= kid_count && number >= 1 && number <= 64);
  CHECK(reaped == !kids[pid - 1].alive);
  if (number == SIGKILL) kid_end(&kids[pid - 1], SIGKILL, false);
}

/* In place of connect(2): a pair of sockets, or a refusal. */
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length) {
  int ends[2];
  (void)address, (void)length;
  if (peer_count == PEERS_MAX || no_forks || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
    return errno = ECONNREFUSED, -1;
  CHECK(dup3(ends[0], fd, O_CLOEXEC) == fd);
  close(ends[0]);
  peers[peer_count++] = ends[1];
  return 0;
}

static uint64_t get64(const uint8_t *at) {
  return get32(at) | (uint64_t)get32(at + 4) << 32;
}

/* The first frame of a connection: nothing that was not seen is lost. */
static void host_hello(const uint8_t *payload) {
  uint64_t first = get64(payload + 8), next = get64(payload + 16);
  CHECK(get32(payload) == PROTOCOL_VERSION && first >= 1 && first <= next);
  if (fresh) seen_seq = next - 1;
  CHECK(blind || (first <= seen_seq + 1 && next >= seen_seq + 1));
  next_seq = first;
  announced = get32(payload + 24);
  fresh = false;
}

/* An entry of the log as a frame without its name; true when it was seen before. */
static bool host_entry(uint32_t type, uint32_t id, const uint8_t **payload, uint32_t *length) {
  CHECK(announced == 0 && *length >= 1 && *length >= 1U + **payload && (**payload == 0) == (type == EVENT));
  uint64_t seq = next_seq++;
  bool seen = seq <= seen_seq;
  if (!seen) seen_seq = seq;
  CHECK(seen || blind || (**payload == 2 && (*payload)[1] == 'n' && (*payload)[2] == '0' + id));
  *length -= 1U + **payload;
  *payload += 1U + **payload;
  return seen;
}

static void host_channel(struct model *model, const uint8_t *payload, uint32_t length) {
  CHECK(announced-- > 0 && length >= 10 && length <= 9 + NAME_BYTES_MAX);
  if (blind || !model) return;
  CHECK(model->open && model->kept && get32(payload + 5) <= STDIN_BYTES_MAX);
  model->stdin_credit = get32(payload + 5);
}

static void host_frame(uint32_t type, uint32_t id, const uint8_t *payload, uint32_t length) {
  struct model *model = model_of(id);
  bool kept = type >> 8 == FLAG_KEPT;
  if (kept) type &= 0xff;
  CHECK(greeted == (type != HELLO));
  if (type == HELLO) {
    CHECK(length == 28 && id == 0);
    host_hello(payload);
  }
  greeted = true;
  if (type == CHANNEL) return host_channel(model, payload, length);
  if (kept && host_entry(type, id, &payload, &length)) return;
  if (model && !blind) CHECK(kept == (model->kept && type != STDIN_CREDIT && type != REFUSED));
  if (type == REFUSED) {
    CHECK(length >= 4);
    if (id == 0) refused = true;
    if (model && get32(payload) == TOO_MANY_CHANNELS) model->open = false;
  }
  if (type == REFUSED || type == PONG || type == HELLO) return;
  if (kept && type == EVENT) return;
  CHECK(id != 0 && type >= STARTED && type <= FAILED);
  if (!model || blind) return;
  CHECK(model->open);
  if (type == STARTED) {
    CHECK(!model->started && length == 4);
    model->started = true;
  } else if (type == STDOUT || type == STDERR) {
    int stream = type == STDERR;
    CHECK(model->started && length > 0 && (kept || model->credit[stream] >= length));
    if (!kept) model->credit[stream] -= length;
    for (uint32_t i = 0; i < length; i++) CHECK(payload[i] == (uint8_t)model->saw[stream]++);
  } else if (type == STDIN_CREDIT) {
    CHECK(length == 4 && get32(payload) > 0);
    model->stdin_credit += get32(payload);
    CHECK(model->stdin_credit <= STDIN_BYTES_MAX);
  } else {
    CHECK(model->started == (type == EXIT) && (type == FAILED ? length >= 5 : length == 28));
    for (int i = 0; i < 2 && type == EXIT; i++) /* EXIT comes after the last byte */
      CHECK(model->discarded[i] || !model->kid || model->saw[i] >= model->kid->wrote_at_end[i]);
    model->open = false;
  }
}

static void host_read(size_t bytes) {
  if (host < 0) return;
  if (bytes > sizeof inbox - inbox_bytes) bytes = sizeof inbox - inbox_bytes;
  ssize_t n = recv(host, inbox + inbox_bytes, bytes, MSG_DONTWAIT);
  if (n > 0) inbox_bytes += (size_t)n;
  size_t at = 0;
  while (inbox_bytes - at >= HEADER_BYTES) {
    uint32_t length = get32(inbox + at);
    CHECK(length <= PAYLOAD_BYTES_MAX);
    if (inbox_bytes - at < HEADER_BYTES + length) break;
    CHECK(!refused); /* nothing follows the end */
    host_frame(get32(inbox + at + 4), get32(inbox + at + 8), inbox + at + HEADER_BYTES, length);
    at += HEADER_BYTES + length;
  }
  memmove(inbox, inbox + at, inbox_bytes - at);
  inbox_bytes -= at;
}

static void host_send(const void *data, size_t length) {
  for (const uint8_t *at = data; length && host >= 0;) {
    ssize_t n = send(host, at, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return;
    if (n > 0) at += n, length -= (size_t)n;
    else {
      host_read(sizeof inbox);
      loop_turn(0);
    }
  }
}

static void frame(uint32_t type, uint32_t id, const void *payload, size_t length) {
  static uint8_t out[HEADER_BYTES + PAYLOAD_BYTES_MAX];
  put32(out, (uint32_t)length);
  put32(out + 4, type);
  put32(out + 8, id);
  if (length) memcpy(out + HEADER_BYTES, payload, length);
  host_send(out, HEADER_BYTES + length);
}

/* The script: bytes taken from the front, zero past the end. */
static const uint8_t *script, *script_end;

static uint8_t take(void) {
  return script < script_end ? *script++ : 0;
}

static size_t take_some(const uint8_t **at) {
  size_t length = take(), left = (size_t)(script_end - script);
  if (length > left) length = left;
  *at = script;
  script += length;
  return length;
}

static uint32_t take_size(void) {
  uint32_t value = take();
  return 1 + (value & 15) * (value & 128 ? 16384 : value & 64 ? 1024 : 1);
}

static void do_exec(uint32_t id, bool by_raw_fields, bool named) {
  uint8_t fields[600] = { 1, 1, 0, 0, 0, 'x', 5, 1, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 6, 8, 0, 0, 0 };
  const uint8_t *more;
  uint32_t out = take_size(), err = take_size();
  struct model *model = model_of(id);
  uint8_t flags = take();
  fields[11] = flags & 1;
  fields[17] = flags >> 1 & 1;
  put32(fields + 23, out);
  put32(fields + 27, err);
  size_t length = 31;
  if (named) memcpy(fields + length, (uint8_t[]){ 12, 2, 0, 0, 0, 'n', (uint8_t)('0' + id) }, 7), length += 7;
  size_t extra = by_raw_fields ? take_some(&more) : 0;
  if (extra) memcpy(fields + length, more, extra);
  if (extra) blind = true;
  loop_turn(0); /* so that the next command spawned is this one */
  if (!blind && model->open) return;
  if (!blind) *model = (struct model){ .open = true, .kept = named, .credit = { out, err }, .stdin_credit = flags & 1 ? STDIN_BYTES_MAX : 0 };
  no_forks = flags & 4;
  next_id = id;
  next_named = !blind;
  frame(EXEC, id, fields, length + extra);
  for (int i = 0; i < 3; i++) loop_turn(0);
  no_forks = false;
  next_named = false;
}

static void do_kid(struct kid *kid, uint8_t what) {
  static uint8_t data[1 << 18];
  int stream = what & 1, *fd = stream ? &kid->err : &kid->out;
  if (what < 2 && *fd >= 0 && (kid->report < 0 || !kid->alive)) { /* output comes after exec only */
    uint32_t size = take_size();
    for (uint32_t i = 0; i < size; i++) data[i] = (uint8_t)(kid->wrote[stream] + i);
    ssize_t n = write(*fd, data, size);
    if (n > 0) kid->wrote[stream] += (uint64_t)n;
  } else if (what < 4) shut(fd);
  else if (what == 4 && kid->in >= 0) {
    ssize_t n = read(kid->in, data, take_size());
    for (ssize_t i = 0; i < n && kid->named && !blind; i++) CHECK(data[i] == (uint8_t)kid->took++);
  } else if (what == 5) shut(&kid->in);
  else if (what == 6) shut(&kid->report); /* exec worked */
  else if (what == 7 && kid->report >= 0 && kid->alive) {
    struct report report = { 1 + take() % 5, take() };
    CHECK(write(kid->report, &report, sizeof report) == sizeof report);
    kid_end(kid, 127 << 8, false);
  } else if (what == 8) kid_end(kid, take() << 8, take() & 1);
}

static void do_stdin(uint32_t id) {
  static uint8_t data[STDIN_BYTES_MAX];
  struct model *model = model_of(id);
  uint32_t size = take_size();
  if (size > model->stdin_credit || size > sizeof data) size = model->stdin_credit;
  for (uint32_t i = 0; i < size; i++) data[i] = (uint8_t)(model->sent + i);
  model->sent += size;
  model->stdin_credit -= size;
  frame(STDIN, id, data, size);
}

static void do_peer(int peer, uint8_t what) {
  static uint8_t data[1 << 18];
  if (what == 0) shut(&peers[peer]);
  else if (what == 1) shutdown(peers[peer], SHUT_WR);
  else if (what == 2 && write(peers[peer], data, take_size()) < 0) return;
  else if (what == 3 && read(peers[peer], data, sizeof data) < 0) return;
}

static void acknowledge(uint64_t seq) {
  uint8_t payload[8];
  put32(payload, (uint32_t)seq);
  put32(payload + 4, (uint32_t)(seq >> 32));
  frame(ACK, 0, payload, sizeof payload);
}

static void open_connection(void) {
  int ends[2], bytes = 16 << 10;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  fcntl(ends[1], F_SETFL, O_NONBLOCK);
  host = ends[0];
  greeted = refused = false;
  inbox_bytes = 0;
  CHECK(connection_open(ends[1], ends[1]));
  loop_turn(0);
}

/* The host dies, and another one comes. Named commands go on; the others are gone. */
static void reconnect(void) {
  shut(&host);
  for (int i = 0; i < 8; i++) loop_turn(0);
  CHECK(connection.in == -1);
  for (int i = 0; i < IDS; i++)
    if (!models[i].kept) models[i] = (struct model){ 0 };
  open_connection();
  while (!greeted || announced > 0) {
    size_t before = inbox_bytes;
    host_read(sizeof inbox);
    loop_turn(0);
    CHECK(greeted || inbox_bytes >= before);
  }
}

static void act(void) {
  const uint8_t *bytes;
  uint8_t what = take(), number = take();
  uint32_t id = 1 + number % IDS;
  struct model *model = model_of(id);
  uint8_t payload[5] = { 1 + (number >> 7) };
  switch (what % 19) {
  case 0: do_exec(id, false, false); break;
  case 1: do_exec(id, true, number & 128); break;
  case 2: if (model->open && !model->eof) do_stdin(id); break;
  case 3: if (model->open) frame(STDIN_EOF, id, NULL, 0), model->stdin_credit = 0, model->eof = true; break;
  case 4: {
    uint32_t size = take_size();
    put32(payload + 1, size);
    if (model->open) model->credit[payload[0] - 1] += size;
    frame(CREDIT, id, payload, 5);
    break;
  }
  case 5: payload[0] = take(); frame(SIGNAL, id, payload, 1); break;
  case 6: model->discarded[payload[0] - 1] = true; frame(DISCARD, id, payload, 1); break;
  case 7: frame(PING, 0, payload, number % 6); break;
  case 8: if (kid_count) do_kid(&kids[number % kid_count], take() % 9); break;
  case 9: host_read(take_size()); break;
  case 10: clock_ms += number; break;
  case 11: /* any frame */
    blind = true;
    frame(what / 19, number, bytes = script, take_some(&bytes));
    break;
  case 12: /* any bytes */
    blind = true;
    host_send(bytes = script, take_some(&bytes));
    break;
  case 13: do_exec(id, false, true); break;
  case 14: if (greeted) acknowledge(number & 128 ? seen_seq : seen_seq - take()); break;
  case 15: reconnect(); break;
  case 16:
    blind = true;
    no_forks = number & 128;
    frame(CONNECT, id, "\x50\x00" "127.0.0.1", 11);
    loop_turn(0);
    no_forks = false;
    break;
  case 17: if (peer_count) do_peer(number % peer_count, take() % 4); break;
  case 18: frame(RESIZE, id, payload, 4); break;
  }
  if (!(number & 64)) loop_turn(0);
}

static void settle(void) {
  for (int quiet = 0; quiet < 3;) {
    size_t before = inbox_bytes;
    int64_t credit = 0, after = 0;
    for (int i = 0; i < IDS; i++) credit += models[i].credit[0] + models[i].credit[1] + models[i].open;
    loop_turn(0);
    host_read(sizeof inbox);
    if (greeted && !refused && connection.in >= 0) acknowledge(seen_seq);
    for (int i = 0; i < IDS; i++) after += models[i].credit[0] + models[i].credit[1] + models[i].open;
    quiet = before == inbox_bytes && credit == after && !loop_again ? quiet + 1 : 0;
  }
}

/* Every byte of standard input comes, then its end if it was sent, to a command that still reads. */
static void check_input(struct model *model) {
  static uint8_t data[1 << 16];
  ssize_t n = -1;
  if (!model->open || !model->started || !model->kid->alive || model->kid->in < 0) return;
  for (int quiet = 0; quiet < 4 && n; quiet++) {
    while ((n = read(model->kid->in, data, sizeof data)) > 0) {
      for (ssize_t i = 0; i < n; i++) CHECK(data[i] == (uint8_t)model->kid->took++);
      quiet = 0;
    }
    settle();
  }
  CHECK(model->kid->took == model->sent);
  CHECK(model->eof == (n == 0));
}

/* Whatever happened: give every stream credit, end every command, and every channel must close with all its output. */
static void wind_up(void) {
  settle(); /* frames that still waited make their commands now */
  for (int i = 0; i < IDS && !blind; i++) check_input(&models[i]);
  for (size_t i = 0; i < kid_count; i++) kid_end(&kids[i], 0, true);
  clock_ms += LINGER_MS;
  settle();
  for (uint32_t id = 1; id <= IDS && !blind; id++) {
    uint8_t payload[5];
    put32(payload + 1, 1 << 26);
    for (uint8_t stream = 1; stream <= 2; stream++) {
      payload[0] = stream;
      if (models[id - 1].open) models[id - 1].credit[stream - 1] += 1 << 26;
      frame(CREDIT, id, payload, 5);
    }
  }
  settle();
  for (size_t i = 0; i < kid_count; i++) shut(&kids[i].out), shut(&kids[i].err);
  for (int i = 0; i < peer_count; i++) shut(&peers[i]);
  settle();
  clock_ms += 2 * LINGER_MS;
  settle();
  for (int i = 0; i < IDS && !blind; i++) CHECK(!models[i].open);
  CHECK(blind || !refused);
  shut(&host);
  for (int i = 0; i < 8; i++) loop_turn(0);
  blind = true;
  for (int i = 0; i < 8 && channels_named() > 0; i++) { /* what waits for room in the log ends with a host that acknowledges */
    open_connection();
    settle();
    shut(&host);
    for (int turn = 0; turn < 8; turn++) loop_turn(0);
  }
  CHECK(channels_named() == 0);
  for (size_t i = 0; i < kid_count; i++) CHECK(!kids[i].alive && kids[i].out < 0 && kids[i].err < 0);
  CHECK(connection.in == -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int lowest = -1;
  script = data;
  script_end = data + size;
  kid_count = 0;
  peer_count = 0;
  fresh = true;
  memset(models, 0, sizeof models);
  blind = greeted = refused = next_named = no_forks = false;
  inbox_bytes = 0;
  if (lowest < 0) { /* the poller is made with the first connection */
    CHECK(loop_watch(STDIN_FILENO, 0, FROM_CONNECTION_IN, 0, 0) || errno == EPERM || errno == EBADF);
    signal(SIGPIPE, SIG_IGN);
  }
  int probe = dup(2);
  close(probe);
  CHECK(lowest < 0 || probe <= lowest); /* else the last run left a descriptor open */
  lowest = probe;
  open_connection();
  while (!greeted) host_read(HEADER_BYTES + 28); /* what the log holds from earlier runs is told from what this one adds */
  while (script < script_end && connection.in >= 0) act();
  wind_up();
  return 0;
}
