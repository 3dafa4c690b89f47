/* The guest agent. ../FRAMES.md is the document of the stream; names here follow it. */
#ifndef AGENT_H
#define AGENT_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum frame_type {
  EXEC = 0x01, STDIN, STDIN_EOF, CREDIT, SIGNAL, DISCARD, PING, CONNECT, RESIZE, ACK, PARK, RESUME,
  HELLO = 0x80, STARTED, STDOUT, STDERR, STDIN_CREDIT, EXIT, FAILED, PONG, REFUSED, CHANNEL, EVENT, PARKED, RESUMED,
};
enum refusal { UNKNOWN_TYPE = 1, BAD_LENGTH, BAD_FIELDS, CHANNEL_IN_USE, TOO_MANY_CHANNELS, CREDIT_OVERRUN };
enum step { STEP_FORK = 1, STEP_USER, STEP_WORKDIR, STEP_PIPES, STEP_EXEC, STEP_CONNECT };

#ifndef CHANNELS_MAX
#define CHANNELS_MAX 256 /* the fuzzer has fewer, to reach the limit */
#endif
enum {
  PROTOCOL_VERSION = 2, FLAG_KEPT = 1, HEADER_BYTES = 12, PAYLOAD_BYTES_MAX = 1 << 20, PING_BYTES_MAX = 64, TX_BYTES_MAX = 512 << 10,
  STDIN_BYTES_MAX = 64 << 10,      /* that the host may have sent and the command not taken */
  TX_OUTPUT_BYTES_MAX = 256 << 10, /* output stays in its pipe while more than this waits to be sent */
  TX_CONTROL_BYTES = 64 << 10,     /* free before a frame of the host is looked at, see connection_fits() */
  CHUNK_BYTES_MAX = 64 << 10,      /* of output in one frame */
  FLUSH_BYTES = 32 << 10,          /* of output that do not wait for that of the other channels in the same turn */
  TURN_BYTES_MAX = 256 << 10,      /* of one stream before the others have their turn */
  PIPE_BYTES = 256 << 10,          /* of a pipe that has shown that it carries much */
  KEEP_BYTES = 32 << 10,           /* of each buffer that stay resident when idle */
  LINGER_MS = 100, HOLD_MS = 1,    /* HOLD: that STARTED waits for company */
  PATH_BYTES_MAX = 4095, USER_BYTES_MAX = 255, GROUPS_MAX = 256, NAME_BYTES_MAX = 64, NAMED_MAX = 64, ADDRESS_BYTES_MAX = 45,
  PARK_TOKEN_BYTES = 16, PARK_TURN_MS = 1000, PARK_TURNS = 10,
};

static inline uint32_t get32(const uint8_t *at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}
static inline void put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

struct text { const uint8_t *at; uint32_t length; };
/* What an EXEC asks for, checked. Arguments and environment stay in `fields`, where the child finds them. */
struct exec_request {
  struct text fields, workdir, user, name;
  uint32_t argc, envc, credit[2];
  bool stdin_pipe, linger, limited[3], pty;
  uint16_t cols, rows;
  uint64_t limit[3]; /* file size, open files, core */
};
struct report { int32_t step, error; }; /* what a child that could not become the command writes on its report pipe */

/* Whom an event is for. An event of a descriptor that was closed is told by its serial. */
enum source { FROM_SIGNALS = 1, FROM_LISTENER, FROM_CONNECTION_IN, FROM_CONNECTION_OUT, FROM_REPORT, FROM_STDOUT,
              FROM_STDERR, FROM_STDIN, FROM_EVENTS };

/* connection.c: frames in and out. One connection at most; `over` asks for its end, `urgent` for a flush. */
extern struct connection {
  int in, out;
  uint32_t serial;
  bool readable, writable, over, urgent, starved, large;
  size_t rx_start, rx_end, tx_start, tx_end;
} connection;
/* Since PARK nothing moves: commands wait, output stays where it is, until the host comes back with the same token. */
extern bool parked;
void park_end(bool resumed), park_step(void);
int64_t park_deadline(void);
bool connection_open(int in, int out);
void connection_close(void), connection_receive(void), connection_flush(void), connection_flush_large(void), connection_shrink(void);
bool connection_fits(size_t bytes);
uint8_t *connection_room(size_t bytes);
void connection_commit(uint8_t type, uint32_t channel, uint32_t length);
void connection_send(uint8_t type, uint32_t channel, const void *payload, uint32_t length);
void connection_send_frame(const uint8_t *frame, size_t bytes);
void connection_refuse(uint32_t channel, enum refusal reason);
bool field_next(struct text *rest, uint8_t *tag, struct text *value);

/* main.c; `loop_again`: work is left that no event will announce. */
extern bool loop_again;
bool loop_watch(int fd, uint32_t events, enum source source, uint32_t slot, uint32_t serial);
void loop_turn(int timeout_ms);

/* channel.c: the commands. `channels_deadline`: when the next linger is over, or -1. */
extern int64_t channels_deadline;
struct channel *channel_find(uint32_t id);
void channel_exec(uint32_t id, const struct exec_request *request);
void channel_connect(uint32_t id, uint16_t port, struct text address);
uint32_t channels_named(void);
void channels_announce(void);
void channel_frame(struct channel *channel, uint8_t type, const uint8_t *payload, uint32_t length);
void channel_event(uint32_t slot, uint32_t serial, enum source source, bool ending);
void channel_ended(pid_t pid, int status, const struct rusage *usage);
void channels_step(void), channels_kill(void);

/* log.c: what outlives the connection. */
size_t log_room(size_t name);
void log_append(uint8_t type, uint32_t channel, struct text name, const void *body, uint32_t length);
void log_acknowledge(uint64_t seq), log_replay(void), log_event(void), log_step(void);
void log_listen(const char *path); /* errno says whether it does */

/* spawn.c: processes. The fuzzer puts its own in their place. */
pid_t spawn_command(const struct exec_request *request, int in, int out, int err, int report);
void signal_group(pid_t pid, bool reaped, int number);
int64_t now_ms(void);
/* applets/applets.c */
int complain(int code, const char *what, int error);
int applet_main(int argc, char **argv);

#endif
