/* The host's connection: frames in, frames out, both in buffers of a fixed size that are resident only while used. */
#include "agent.h"
#include <sys/prctl.h>

struct connection connection = { .in = -1, .out = -1 };

/* At least one byte more than a frame: the child ends the last field with a NUL. Whole pages: madvise(2) rounds up, and
 * would take what lies behind along. */
static uint8_t rx[(HEADER_BYTES + PAYLOAD_BYTES_MAX + 1 + 4095) / 4096 * 4096] __attribute__((aligned(4096)));
static uint8_t tx[TX_BYTES_MAX] __attribute__((aligned(4096)));

/* How long a frame of the host may be, by type. */
static const struct { uint32_t min, max; } lengths[] = {
  [EXEC] = { 0, PAYLOAD_BYTES_MAX }, [STDIN] = { 0, PAYLOAD_BYTES_MAX }, [STDIN_EOF] = { 0, 0 },
  [CREDIT] = { 5, 5 }, [SIGNAL] = { 1, 1 }, [DISCARD] = { 1, 1 }, [PING] = { 0, PING_BYTES_MAX },
  [CONNECT] = { 3, 2 + ADDRESS_BYTES_MAX }, [RESIZE] = { 4, 4 }, [ACK] = { 8, 8 },
  [PARK] = { PARK_TOKEN_BYTES, PARK_TOKEN_BYTES }, [RESUME] = { PARK_TOKEN_BYTES, PARK_TOKEN_BYTES },
};

bool connection_open(int in, int out) {
  connection = (struct connection){ .in = in, .out = out, .serial = connection.serial + 1, .readable = true,
                                    .writable = true, .large = connection.large };
  uint32_t one = in == out ? EPOLLOUT : 0;
  if (!loop_watch(in, EPOLLIN | EPOLLRDHUP | one, FROM_CONNECTION_IN, 0, connection.serial)) return false;
  if (!one && !loop_watch(out, EPOLLOUT, FROM_CONNECTION_OUT, 0, connection.serial)) return false;
  log_replay();
  return loop_again = true;
}

/* Kills what the connection asked for, but for named commands and unless it is parked, then forgets it. */
void connection_close(void) {
  if (!parked) channels_kill();
  if (connection.in >= 0) close(connection.in);
  if (connection.out >= 0 && connection.out != connection.in) close(connection.out);
  connection = (struct connection){ .in = -1, .out = -1, .serial = connection.serial, .large = connection.large };
  connection_shrink();
}

/* Gives the buffers' memory back when a burst is over. */
void connection_shrink(void) {
  if (!connection.large || connection.rx_end || connection.tx_end) return;
  madvise(rx + KEEP_BYTES, sizeof rx - KEEP_BYTES, MADV_DONTNEED);
  madvise(tx + KEEP_BYTES, sizeof tx - KEEP_BYTES, MADV_DONTNEED);
  connection.large = false;
}

static size_t waiting(void) { return connection.tx_end - connection.tx_start; }

/* Whether output may be added now. Output stops at TX_OUTPUT_BYTES_MAX; a frame of the host is looked at only while
   TX_CONTROL_BYTES are free, and after one each channel adds at most STARTED and EXIT, or FAILED: under 128 bytes
   each, 32 KiB in all. So there is always room for those. */
bool connection_fits(size_t bytes) {
  return connection.out >= 0 && !connection.over && waiting() + HEADER_BYTES + bytes <= TX_OUTPUT_BYTES_MAX;
}

/* Room for a payload, behind the room of its header; the caller knows that it fits. */
uint8_t *connection_room(size_t bytes) {
  if (connection.tx_end + HEADER_BYTES + bytes > sizeof tx) {
    memmove(tx, tx + connection.tx_start, waiting());
    connection.tx_end = waiting();
    connection.tx_start = 0;
    if (connection.tx_end + HEADER_BYTES + bytes > sizeof tx) __builtin_trap();
  }
  return tx + connection.tx_end + HEADER_BYTES;
}

void connection_commit(uint8_t type, uint32_t channel, uint32_t length) {
  uint8_t *header = tx + connection.tx_end;
  put32(header, length);
  put32(header + 4, type);
  put32(header + 8, channel);
  connection.tx_end += HEADER_BYTES + length;
  connection.large |= connection.tx_end > KEEP_BYTES;
  if (type != STARTED) connection.urgent = true;
}

void connection_send(uint8_t type, uint32_t channel, const void *payload, uint32_t length) {
  if (connection.out < 0 || connection.over) return;
  uint8_t *room = connection_room(length);
  if (length) memcpy(room, payload, length);
  connection_commit(type, channel, length);
}

/* A frame as the log has it: header and all. */
void connection_send_frame(const uint8_t *frame, size_t bytes) {
  if (connection.out < 0 || connection.over) return;
  memcpy(connection_room(bytes - HEADER_BYTES) - HEADER_BYTES, frame, bytes);
  connection.tx_end += bytes;
  connection.large |= connection.tx_end > KEEP_BYTES;
  if (frame[4] != STARTED) connection.urgent = true;
}

void connection_flush(void) {
  while (connection.out >= 0 && connection.writable && !connection.over && waiting()) {
    ssize_t n = write(connection.out, tx + connection.tx_start, waiting());
    if (n > 0) connection.tx_start += (size_t)n;
    else if (n < 0 && errno == EAGAIN) connection.writable = false;
    else connection.over = true;
  }
  connection.urgent = waiting() > 0;
  if (!connection.urgent) connection.tx_start = connection.tx_end = 0;
}

/* Output of one turn leaves in one write, where it is not much. */
void connection_flush_large(void) {
  if (waiting() >= FLUSH_BYTES) connection_flush();
}

/* On channel 0 the stream cannot be trusted any more. */
void connection_refuse(uint32_t channel, enum refusal reason) {
  uint8_t payload[4];
  put32(payload, reason);
  connection_send(REFUSED, channel, payload, sizeof payload);
  if (channel == 0) connection_flush(), connection.over = true;
}

/* Takes one field off `rest`; false at its end, and where the rest is no field (then `rest` is not empty). */
bool field_next(struct text *rest, uint8_t *tag, struct text *value) {
  if (rest->length < 5) return false;
  uint32_t length = get32(rest->at + 1);
  if (length > rest->length - 5) return false;
  *tag = rest->at[0];
  *value = (struct text){ rest->at + 5, length };
  *rest = (struct text){ value->at + length, rest->length - 5 - length };
  return true;
}

static bool is_text(struct text value, uint32_t min, uint32_t max) {
  return value.length >= min && value.length <= max && !memchr(value.at, 0, value.length);
}

static bool is_flag(struct text value, bool *flag) {
  *flag = value.length == 1 && value.at[0] == 1;
  return value.length == 1 && value.at[0] <= 1;
}

/* Printable, without space. */
static bool is_name(struct text value) {
  for (uint32_t i = 0; i < value.length; i++)
    if (value.at[i] <= ' ' || value.at[i] > '~') return false;
  return value.length >= 1 && value.length <= NAME_BYTES_MAX;
}

static bool take_field(struct exec_request *request, uint8_t tag, struct text value) {
  uint32_t low = value.length == 8 || value.length == 4 ? get32(value.at) : 0, high = value.length == 8 ? get32(value.at + 4) : 0;
  switch (tag) {
  case 1: return ++request->argc && is_text(value, 0, PAYLOAD_BYTES_MAX);
  case 2: return ++request->envc && is_text(value, 1, PAYLOAD_BYTES_MAX) && memchr(value.at, '=', value.length);
  case 3: return is_text(request->workdir = value, 1, PATH_BYTES_MAX);
  case 4: return is_text(request->user = value, 1, USER_BYTES_MAX);
  case 5: return is_flag(value, &request->stdin_pipe);
  case 6:
    request->credit[0] = low, request->credit[1] = high;
    return value.length == 8;
  case 7: return is_flag(value, &request->linger);
  case 8: case 9: case 10:
    request->limit[tag - 8] = low | (uint64_t)high << 32;
    return request->limited[tag - 8] = value.length == 8;
  case 11:
    request->cols = (uint16_t)low, request->rows = (uint16_t)(low >> 16);
    return request->pty = value.length == 4;
  case 12: return is_name(request->name = value);
  default: return false;
  }
}

static bool request_parse(const uint8_t *payload, uint32_t length, struct exec_request *request) {
  struct text rest = { payload, length }, value;
  uint8_t tag;
  *request = (struct exec_request){ .fields = rest, .limited = { [2] = true } };
  while (field_next(&rest, &tag, &value))
    if (!take_field(request, tag, value)) return false;
  request->stdin_pipe |= request->pty;
  return rest.length == 0 && request->argc > 0;
}

bool parked;
static uint8_t park_token[PARK_TOKEN_BYTES];
static int64_t park_turn_ms; /* when the turn is over */
static int park_turns;

int64_t park_deadline(void) { return parked ? park_turn_ms : -1; }

/* Nobody else has a claim on what the connection that parked had asked for. */
void park_end(bool resumed) {
  if (parked && !resumed) channels_kill();
  if (parked) prctl(PR_SET_DUMPABLE, 0);
  parked = false;
  loop_again = true;
}

/* Counted in turns: while the agent is frozen, for however long, at most one of them ends. */
void park_step(void) {
  if (!parked || now_ms() < park_turn_ms) return;
  park_turn_ms = now_ms() + PARK_TURN_MS;
  if (--park_turns == 0) park_end(false);
}

static void park(const uint8_t *token) {
  memcpy(park_token, token, sizeof park_token);
  park_turn_ms = now_ms() + PARK_TURN_MS;
  park_turns = PARK_TURNS;
  parked = true;
  /* Whoever saves the memory looks at our namespaces from within our user namespace. One that was restored before was not
   * executed there, and would show them to nobody. */
  prctl(PR_SET_DUMPABLE, 1);
  connection_send(PARKED, 0, NULL, 0);
}

static void resume(const uint8_t *token) {
  uint8_t resumed = parked && !memcmp(park_token, token, sizeof park_token);
  park_end(resumed);
  connection_send(RESUMED, 0, &resumed, 1);
}

static void dispatch(uint8_t type, uint32_t id, const uint8_t *payload, uint32_t length) {
  struct exec_request request;
  struct channel *channel = channel_find(id);
  if (length < lengths[type].min || length > lengths[type].max) connection_refuse(id, BAD_LENGTH);
  else if ((type == PING || type == ACK || type == PARK || type == RESUME) != (id == 0)) connection_refuse(id, BAD_FIELDS);
  else if (type == PARK) park(payload);
  else if (type == RESUME) resume(payload);
  else if (type == PING) connection_send(PONG, 0, payload, length);
  else if (type == ACK) log_acknowledge(get32(payload) | (uint64_t)get32(payload + 4) << 32);
  else if (type != EXEC && type != CONNECT && channel) channel_frame(channel, type, payload, length);
  else if (type != EXEC && type != CONNECT) return; /* it crossed the channel's EXIT */
  else if (channel) connection_refuse(id, CHANNEL_IN_USE);
  else if (type == CONNECT)
    channel_connect(id, (uint16_t)(payload[0] | payload[1] << 8), (struct text){ payload + 2, length - 2 });
  else if (!request_parse(payload, length, &request)) connection_refuse(id, BAD_FIELDS);
  else channel_exec(id, &request);
}

/* Handles one whole frame, if there is one. The type's three zero bytes are checked as a part of it. */
static bool next_frame(void) {
  const uint8_t *frame = rx + connection.rx_start;
  size_t have = connection.rx_end - connection.rx_start;
  if (have < HEADER_BYTES || connection.over) return false;
  uint32_t length = get32(frame), type = get32(frame + 4);
  if (parked && type != RESUME && have) park_end(false);
  if (type < EXEC || type > RESUME) connection_refuse(0, UNKNOWN_TYPE);
  else if (length > PAYLOAD_BYTES_MAX) connection_refuse(0, BAD_LENGTH);
  if (connection.over || have < HEADER_BYTES + length) return false;
  connection.rx_start += HEADER_BYTES + length;
  dispatch((uint8_t)type, get32(frame + 8), frame + HEADER_BYTES, length);
  return true;
}

/* Handles what there is, and reads more, while the answers have room. */
void connection_receive(void) {
  size_t taken = 0;
  while (connection.in >= 0 && !connection.over) {
    do connection.starved = waiting() + TX_CONTROL_BYTES > TX_BYTES_MAX;
    while (!connection.starved && next_frame());
    size_t rest = connection.rx_end - connection.rx_start;
    if (connection.over || connection.starved) return;
    if (connection.rx_start && rest) memmove(rx, rx + connection.rx_start, rest);
    connection.rx_start = 0;
    connection.rx_end = rest;
    if (taken >= TURN_BYTES_MAX) loop_again = true;
    if (taken >= TURN_BYTES_MAX || !connection.readable) return;
    ssize_t n = read(connection.in, rx + rest, HEADER_BYTES + PAYLOAD_BYTES_MAX - rest);
    if (n > 0) {
      taken += (size_t)n;
      connection.rx_end += (size_t)n;
      connection.large |= connection.rx_end > KEEP_BYTES;
    } else if (n < 0 && errno == EAGAIN) connection.readable = false;
    else connection.over = true;
  }
}
