/* The fields of EXEC: tag, length, bytes. Read by the agent to check them, and by the child to use them. */
#include "agent.h"

uint32_t get32(const uint8_t *at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
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

static bool take_field(struct exec_request *request, uint8_t tag, struct text value) {
  switch (tag) {
  case 1:
    request->argc++;
    return is_text(value, 0, PAYLOAD_BYTES_MAX);
  case 2:
    request->envc++;
    return is_text(value, 1, PAYLOAD_BYTES_MAX) && memchr(value.at, '=', value.length);
  case 3:
    request->workdir = value;
    return is_text(value, 1, PATH_BYTES_MAX);
  case 4:
    request->user = value;
    return is_text(value, 1, USER_BYTES_MAX);
  case 5:
    return is_flag(value, &request->stdin_pipe);
  case 7:
    return is_flag(value, &request->linger);
  case 6: case 8: case 9: case 10:
    if (value.length != 8) return false;
    uint32_t low = get32(value.at), high = get32(value.at + 4);
    if (tag == 6) {
      request->credit[0] = low;
      request->credit[1] = high;
    } else {
      request->limited[tag - 8] = true;
      request->limit[tag - 8] = low | (uint64_t)high << 32;
    }
    return true;
  default:
    return false;
  }
}

bool request_parse(const uint8_t *payload, uint32_t length, struct exec_request *request) {
  struct text rest = { payload, length }, value;
  uint8_t tag;
  *request = (struct exec_request){ .fields = rest, .limited = { [2] = true } };
  while (field_next(&rest, &tag, &value))
    if (!take_field(request, tag, value)) return false;
  return rest.length == 0 && request->argc > 0;
}
