/* The guest agent. ../FRAMES.md is the document of the stream; names here follow it. */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

enum frame_type {
  EXEC = 0x01, STDIN, STDIN_EOF, CREDIT, SIGNAL, DISCARD, PING,
  HELLO = 0x80, STARTED, STDOUT, STDERR, STDIN_CREDIT, EXIT, FAILED, PONG, REFUSED,
};

enum refusal { UNKNOWN_TYPE = 1, BAD_LENGTH, BAD_FIELDS, CHANNEL_IN_USE, TOO_MANY_CHANNELS, CREDIT_OVERRUN = 7 };

enum step { STEP_FORK = 1, STEP_USER, STEP_WORKDIR, STEP_PIPES, STEP_EXEC };

enum {
  PROTOCOL_VERSION = 1,
  HEADER_BYTES = 12,
  PAYLOAD_BYTES_MAX = 1 << 20,
  PING_BYTES_MAX = 64,
  CHANNELS_MAX = 256,
  STDIN_BYTES_MAX = 64 << 10,   /* what the host may have sent and the command not read, beside the pipe */
  TX_BYTES_MAX = 512 << 10,
  TX_OUTPUT_BYTES_MAX = 256 << 10, /* output waits in the pipe when more than this waits to be sent */
  TX_CONTROL_BYTES = 64 << 10,  /* free before a frame of the host is looked at: room for every answer, see fits() */
  CHUNK_BYTES_MAX = 64 << 10,   /* of output, in one frame */
  TURN_BYTES_MAX = 256 << 10,   /* of one stream, before the other channels have their turn */
  PIPE_BYTES = 256 << 10,       /* of a pipe that has shown that it carries much */
  KEEP_BYTES = 32 << 10,        /* of each buffer, kept resident when idle */
  LINGER_MS = 100,
  HOLD_MS = 1,                  /* STARTED waits this long for company */
  PATH_BYTES_MAX = 4095,
  USER_BYTES_MAX = 255,
  GROUPS_MAX = 256,
};

struct text { const uint8_t *at; uint32_t length; };

/* What an EXEC asks for, checked. Arguments and environment stay in `fields`, where the child finds them. */
struct exec_request {
  struct text fields, workdir, user;
  uint32_t argc, envc, credit[2];
  bool stdin_pipe, linger, limited[3];
  uint64_t limit[3]; /* file size, open files, core */
};

/* What a child that could not become the command writes on its report pipe. */
struct report { int32_t step, error; };

/* Who an event of epoll is for; events of a closed descriptor are told by their serial. */
enum source { FROM_SIGNALS = 1, FROM_LISTENER, FROM_CONNECTION_IN, FROM_CONNECTION_OUT, FROM_REPORT, FROM_STDOUT, FROM_STDERR,
              FROM_STDIN };

/* connection.c: the frames. One connection at most; `over` asks for its end. */
extern struct connection {
  int in, out;
  uint32_t serial;
  bool readable, writable, over, urgent;
  size_t rx_start, rx_end, rx_peak, tx_start, tx_end, tx_peak;
} connection;
bool connection_open(int in, int out);
void connection_close(void);
void connection_receive(void);
void connection_flush(void);
void connection_shrink(void);
bool connection_fits(size_t bytes);
uint8_t *connection_room(size_t bytes);
void connection_commit(uint8_t type, uint32_t channel, uint32_t length);
void connection_send(uint8_t type, uint32_t channel, const void *payload, uint32_t length);
void connection_refuse(uint32_t channel, enum refusal reason);

/* request.c: the fields of EXEC. */
bool field_next(struct text *rest, uint8_t *tag, struct text *value);
bool request_parse(const uint8_t *payload, uint32_t length, struct exec_request *request);
uint32_t get32(const uint8_t *at);
void put32(uint8_t *at, uint32_t value);

/* channel.c: the commands. */
struct channel;
struct channel *channel_find(uint32_t id);
void channel_exec(uint32_t id, const struct exec_request *request);
void channel_stdin(struct channel *channel, const uint8_t *data, uint32_t length);
void channel_stdin_eof(struct channel *channel);
bool channel_credit(struct channel *channel, uint8_t stream, uint32_t bytes);
bool channel_discard(struct channel *channel, uint8_t stream);
void channel_signal(struct channel *channel, uint8_t signal);
void channel_event(uint32_t slot, uint32_t serial, enum source source, uint32_t events);
void channel_ended(pid_t pid, int status, const struct rusage *usage);
void channels_step(void);
void channels_kill(void);
int64_t channels_deadline(void);

/* loop.c */
extern bool loop_again; /* work is left that no event will announce */
bool loop_watch(int fd, uint32_t events, enum source source, uint32_t slot, uint32_t serial);
void loop_turn(int timeout_ms, void (*other)(enum source source));

/* spawn.c and users.c; the fuzzer has its own spawn_command, signal_group and now_ms. */
pid_t spawn_command(const struct exec_request *request, int in, int out, int err, int report);
void signal_group(pid_t pid, bool reaped, int signal);
int64_t now_ms(void);
int user_apply(const char *spec);

/* applets.c */
int applet_put(const char *path, const char *mode);
int applet_get(const char *path, const char *max);

#endif
