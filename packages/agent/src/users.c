/* `user`, `uid`, `user:group`, `uid:gid`, by the sandbox's own files, which may hold anything. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATABASE_BYTES_MAX = 4 << 20, LINE_BYTES_MAX = 16 << 10, NAME_BYTES_MAX = USER_BYTES_MAX + 1 };

static bool number(const char *text, uint32_t *value)
{
  uint64_t sum = 0;
  if (!*text) return false;
  for (; *text; text++) {
    if (*text < '0' || *text > '9' || sum >= UINT32_MAX) return false;
    sum = sum * 10 + (uint64_t)(*text - '0');
  }
  if (sum >= UINT32_MAX) return false; /* (uid_t)-1 means "leave it" to the kernel */
  *value = (uint32_t)sum;
  return true;
}

/* Calls `line` with the first four fields of every line until it says true. Lines longer than LINE_BYTES_MAX are skipped. */
static void scan(const char *path, bool (*line)(char **fields, void *context), void *context)
{
  char buffer[LINE_BYTES_MAX];
  size_t have = 0, total = 0;
  bool skip = false, stop = false;
  struct stat stat;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) stop = true;
  while (!stop && total < DATABASE_BYTES_MAX) {
    ssize_t n = read(fd, buffer + have, sizeof buffer - 1 - have);
    if (n < 0) break;
    if (n == 0) {
      if (!have) break;
      buffer[have] = '\n';
      n = 1;
      total = DATABASE_BYTES_MAX;
    }
    have += (size_t)n;
    total += (size_t)n;
    char *at = buffer, *end;
    while (!stop && (end = memchr(at, '\n', have - (size_t)(at - buffer)))) {
      char *fields[4] = { at, NULL, NULL, NULL };
      *end = 0;
      for (int i = 1; i < 4 && fields[i - 1] && (fields[i] = strchr(fields[i - 1], ':')); i++) *fields[i]++ = 0;
      char *rest = fields[3] ? strchr(fields[3], ':') : NULL;
      if (rest) *rest = 0;
      if (!skip && fields[3]) stop = line(fields, context);
      skip = false;
      at = end + 1;
    }
    have -= (size_t)(at - buffer);
    memmove(buffer, at, have);
    if (have == sizeof buffer - 1) {
      have = 0;
      skip = true;
    }
  }
  if (fd >= 0) close(fd);
}

struct who {
  const char *user, *group;
  bool user_numeric, group_numeric, found, group_found;
  uint32_t uid, gid;
  char name[NAME_BYTES_MAX];
  gid_t groups[GROUPS_MAX];
  size_t count;
};

static bool passwd_line(char **fields, void *context)
{
  struct who *who = context;
  uint32_t uid, gid;
  if (!number(fields[2], &uid) || !number(fields[3], &gid)) return false;
  if (who->user_numeric ? uid != who->uid : strcmp(fields[0], who->user) != 0) return false;
  who->found = true;
  who->uid = uid;
  who->gid = gid;
  strncpy(who->name, fields[0], sizeof who->name - 1);
  return true;
}

static bool group_line(char **fields, void *context)
{
  struct who *who = context;
  uint32_t gid;
  if (!number(fields[2], &gid)) return false;
  if (who->group) {
    if (strcmp(fields[0], who->group) != 0) return false;
    who->gid = gid;
    return who->group_found = true;
  }
  for (char *member = strtok(fields[3], ","); member; member = strtok(NULL, ","))
    if (!strcmp(member, who->name) && who->count < GROUPS_MAX) {
      who->groups[who->count++] = gid;
      break;
    }
  return false;
}

/* Makes this process the user's; 0, or the error. A uid without a passwd line has group 0, as in other runtimes. */
int user_apply(const char *spec)
{
  static struct who who;
  static char user[NAME_BYTES_MAX];
  strncpy(user, spec, sizeof user - 1);
  who.user = user;
  char *colon = strchr(user, ':');
  if (colon) {
    *colon = 0;
    who.group = colon + 1;
  }
  who.user_numeric = number(user, &who.uid);
  scan("/etc/passwd", passwd_line, &who);
  if (!who.found && !who.user_numeric) return ENOENT;
  if (who.group && number(who.group, &who.gid)) who.group_found = who.group_numeric = true;
  /* A group that was named is the only one. */
  if (!who.group_numeric && (who.group || who.name[0])) scan("/etc/group", group_line, &who);
  if (who.group && !who.group_found) return ENOENT;
  if (getuid() != 0 && who.uid == getuid() && who.gid == getgid()) return 0;
  if (setgroups(who.count, who.groups) < 0 || setresgid(who.gid, who.gid, who.gid) < 0 ||
      setresuid(who.uid, who.uid, who.uid) < 0) return errno;
  return 0;
}
