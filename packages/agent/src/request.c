/* The fields of EXEC: tag, length, bytes. Read by the agent to check them, and by the child to use them. */
#include "agent.h"

#include <string.h>

uint32_t get32(const uint8_t *at)
{
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void put32(uint8_t *at, uint32_t value)
{
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

/* Takes one field off `rest`; false at its end, or where the rest is no field (then `rest` is not empty). */
bool field_next(struct text *rest, uint8_t *tag, struct text *value)
{
  if (rest->length < 5) return false;
  uint32_t length = get32(rest->at + 1);
  if (length > rest->length - 5) return false;
  *tag = rest->at[0];
  *value = (struct text){ rest->at + 5, length };
  rest->at += 5 + length;
  rest->length -= 5 + length;
  return true;
}

static bool is_text(struct text value, uint32_t min, uint32_t max)
{
  return value.length >= min && value.length <= max && !memchr(value.at, 0, value.length);
}

static bool is_flag(struct text value, bool *flag)
{
  if (value.length != 1 || value.at[0] > 1) return false;
  *flag = value.at[0];
  return true;
}

bool request_parse(const uint8_t *payload, uint32_t length, struct exec_request *request)
{
  struct text rest = { payload, length }, value;
  uint8_t tag;
  *request = (struct exec_request){ .fields = rest, .limited = { [2] = true } };
  while (field_next(&rest, &tag, &value)) {
    bool good = false;
    switch (tag) {
    case 1:
      good = is_text(value, 0, PAYLOAD_BYTES_MAX);
      request->argc++;
      break;
    case 2:
      good = is_text(value, 1, PAYLOAD_BYTES_MAX) && memchr(value.at, '=', value.length);
      request->envc++;
      break;
    case 3:
      good = is_text(value, 1, PATH_BYTES_MAX);
      request->workdir = value;
      break;
    case 4:
      good = is_text(value, 1, USER_BYTES_MAX);
      request->user = value;
      break;
    case 5:
      good = is_flag(value, &request->stdin_pipe);
      break;
    case 6:
      good = value.length == 8;
      for (int i = 0; good && i < 2; i++) request->credit[i] = get32(value.at + 4 * i);
      break;
    case 7:
      good = is_flag(value, &request->linger);
      break;
    case 8: case 9: case 10:
      good = value.length == 8;
      if (good) request->limit[tag - 8] = get32(value.at) | (uint64_t)get32(value.at + 4) << 32;
      request->limited[tag - 8] = true;
      break;
    default:
      break;
    }
    if (!good) return false;
  }
  return rest.length == 0 && request->argc > 0;
}
