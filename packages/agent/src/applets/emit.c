/* emit: one event of a program in the sandbox, as a datagram of JSON to the agent. Also called bramble-emit. */
#include "applets.h"
#include <sys/socket.h>
#include <sys/un.h>

enum { DATAGRAM_BYTES_MAX = 8 << 10, EVENT_NAME_BYTES_MAX = 256, DEPTH_MAX = 64 };
static const char socket_path[] = "/.bramble/run/events.sock";

static char datagram[DATAGRAM_BYTES_MAX], input[DATAGRAM_BYTES_MAX + 1];
static size_t used;
static bool too_long;

static void append(const char *data, size_t length) {
  if (length > sizeof datagram - used) { too_long = true; return; }
  memcpy(datagram + used, data, length);
  used += length;
}

/* Bytes of the UTF-8 character at `at` (RFC 3629), or 0. */
static size_t character(const uint8_t *at) {
  size_t length = *at < 0x80 ? 1 : *at >= 0xc2 && *at < 0xe0 ? 2 : *at >= 0xe0 && *at < 0xf0 ? 3 : *at >= 0xf0 && *at < 0xf5 ? 4 : 0;
  for (size_t i = 1; i < length; i++)
    if ((at[i] & 0xc0) != 0x80) return 0;
  if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) || (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] > 0x8f)) return 0;
  return length;
}

static void append_string(const char *text) {
  char escape[8];
  append("\"", 1);
  for (const uint8_t *at = (const uint8_t *)text; *at;) {
    size_t length = character(at);
    if (!length) append("\xef\xbf\xbd", 3), at++; /* U+FFFD in its place */
    else if (*at == '"' || *at == '\\' || *at < 0x20 || *at == 0x7f)
      append(escape, (size_t)snprintf(escape, sizeof escape, *at == '"' || *at == '\\' ? "\\%c" : "\\u%04x", *at)), at++;
    else append((const char *)at, length), at += length;
  }
  append("\"", 1);
}

/* Past a JSON value (RFC 8259) and the space around it, or NULL. */
static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }
static const char *skip_digits(const char *at) {
  size_t digits = strspn(at, "0123456789");
  return digits ? at + digits : NULL;
}
static const char *skip_number(const char *at) {
  at += *at == '-';
  at = *at == '0' ? at + 1 : skip_digits(at);
  if (at && *at == '.') at = skip_digits(at + 1);
  if (at && (*at == 'e' || *at == 'E')) at = skip_digits(at + 1 + (at[1] == '+' || at[1] == '-'));
  return at;
}
static const char *skip_string(const char *at) {
  if (*at++ != '"') return NULL;
  while (*at != '"') {
    size_t length = (uint8_t)*at < 0x20 ? 0 : character((const uint8_t *)at);
    if (!length) return NULL;
    if (*at == '\\') {
      if (!at[1] || !strchr("\"\\/bfnrtu", at[1])) return NULL;
      if (at[1] == 'u' && strspn(at + 2, "0123456789abcdefABCDEF") < 4) return NULL;
      length = at[1] == 'u' ? 6 : 2;
    }
    at += length;
  }
  return at + 1;
}
static const char *skip_value(const char *at, int depth) {
  static const char *const words[] = { "true", "false", "null" };
  at = skip_space(at);
  char open = *at, close = open == '{' ? '}' : ']';
  if (depth > DEPTH_MAX) return NULL;
  if (open == '{' || open == '[') {
    at = skip_space(at + 1);
    if (*at == close) return skip_space(at + 1);
    for (;; at++) {
      if (open == '{' && (!(at = skip_string(skip_space(at))) || *(at = skip_space(at)) != ':')) return NULL;
      if (!(at = skip_value(at + (open == '{'), depth + 1)) || (*at != ',' && *at != close)) return NULL;
      if (*at == close) return skip_space(at + 1);
    }
  }
  if (open == '"') at = skip_string(at);
  else if (open == '-' || (open >= '0' && open <= '9')) at = skip_number(at);
  else {
    const char *end = NULL;
    for (size_t i = 0; i < sizeof words / sizeof *words && !end; i++)
      if (!strncmp(at, words[i], strlen(words[i]))) end = at + strlen(words[i]);
    at = end;
  }
  return at ? skip_space(at) : NULL;
}

static bool read_input(void) {
  size_t length = 0;
  for (ssize_t n; length < sizeof input && (n = read(0, input + length, sizeof input - length)) != 0;) {
    if (n < 0) return false;
    length += (size_t)n;
  }
  too_long = length == sizeof input;
  if (too_long) length--;
  input[length] = 0;
  return true;
}

int applet_emit(int argc, char **argv) {
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const char *path = getenv("BRAMBLE_EVENTS"), *data = argc > 1 ? argv[1] : NULL, *end;
  if (!path || !*path) path = socket_path;
  if (!*argv[0] || strlen(argv[0]) > EVENT_NAME_BYTES_MAX) return complain(BAD_USAGE, "NAME has 1 to 256 bytes", EINVAL);
  if (strlen(path) >= sizeof address.sun_path) return complain(1, path, ENAMETOOLONG);
  strcpy(address.sun_path, path);
  if (data && !strcmp(data, "-")) {
    if (!read_input()) return complain(1, "standard input", errno);
    data = input;
  }
  append("{\"name\":", 8);
  append_string(argv[0]);
  append(",\"data\":", 8);
  if (!data) append("null", 4);
  else if ((end = skip_value(data, 0)) && !*end) append(data, strlen(data));
  else append_string(data);
  append("}", 1);
  if (too_long) return complain(1, "an event has at most 8192 bytes", EMSGSIZE);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    if (errno != ENOENT && errno != ECONNREFUSED) return complain(1, path, errno);
    dprintf(2, "%s: nobody takes events in this sandbox: it is not an instance\n", path);
    return 1;
  }
  ssize_t n;
  do n = send(fd, datagram, used, 0); /* waits while the agent's log is full */
  while (n < 0 && errno == EINTR);
  return n == (ssize_t)used ? 0 : complain(1, path, errno);
}
