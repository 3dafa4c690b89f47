/* `user`, `uid`, `user:group`, `uid:gid`, by the sandbox's own files, which may hold anything. Runs in the child. */
#include "agent.h"

#include <grp.h>

enum { DATABASE_BYTES_MAX = 1 << 20 };

static struct {
  const char *user, *group;
  char name[64]; /* as /etc/passwd has it */
  uint32_t uid, gid;
  gid_t groups[GROUPS_MAX];
  size_t count;
} who;
static char database[DATABASE_BYTES_MAX + 1];

/* A user or group id; (uid_t)-1 is none. */
static bool number(const char *text, uint32_t *value) {
  uint64_t sum = 0;
  const char *at = text;
  for (; *at >= '0' && *at <= '9' && sum < UINT32_MAX; at++) sum = sum * 10 + (uint64_t)(*at - '0');
  if (at == text || *at || sum >= UINT32_MAX) return false;
  *value = (uint32_t)sum;
  return true;
}

/* Hands each line's first four fields to `line` until it is content; of a larger file, the beginning. */
static bool scan(const char *path, bool (*line)(char *const *fields)) {
  struct stat stat;
  ssize_t length = 0, n = 1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) return false;
  for (; n > 0 && length < DATABASE_BYTES_MAX; length += n > 0 ? n : 0)
    n = read(fd, database + length, (size_t)(DATABASE_BYTES_MAX - length));
  close(fd);
  database[length] = 0;
  for (char *at = database, *text; (text = strsep(&at, "\n"));) {
    char *fields[4];
    int count = 0;
    while (count < 4 && (fields[count] = strsep(&text, ":"))) count++;
    if (count == 4 && line(fields)) return true;
  }
  return false;
}

static bool passwd_line(char *const *fields) {
  uint32_t wanted, uid, gid;
  if (!number(fields[2], &uid) || !number(fields[3], &gid) || strlen(fields[0]) >= sizeof who.name) return false;
  if (number(who.user, &wanted) ? uid != wanted : strcmp(fields[0], who.user) != 0) return false;
  who.uid = uid;
  who.gid = gid;
  strcpy(who.name, fields[0]);
  return true;
}

static bool named_group(char *const *fields) {
  return !strcmp(fields[0], who.group) && number(fields[2], &who.gid);
}

static bool member_group(char *const *fields) {
  char *members = fields[3], *member;
  uint32_t gid;
  while (who.count < GROUPS_MAX && number(fields[2], &gid) && (member = strsep(&members, ",")))
    if (!strcmp(member, who.name)) who.groups[who.count++] = gid;
  return false;
}

/*
 * Makes this process the user's; 0, or the error. A uid that has no line in passwd gets group 0, as in other runtimes; a
 * group that is named is the only one.
 */
int user_apply(const char *spec) {
  static char copy[USER_BYTES_MAX + 1];
  char *rest = strncpy(copy, spec, USER_BYTES_MAX);
  who.user = strsep(&rest, ":");
  who.group = rest;
  if (!scan("/etc/passwd", passwd_line) && !number(who.user, &who.uid)) return ENOENT;
  if (who.group && !number(who.group, &who.gid) && !scan("/etc/group", named_group)) return ENOENT;
  if (!who.group && who.name[0]) scan("/etc/group", member_group);
  if (getuid() != 0 && who.uid == getuid() && who.gid == getgid()) return 0;
  if (setgroups(who.count, who.groups) < 0 || setresgid(who.gid, who.gid, who.gid) < 0) return errno;
  return setresuid(who.uid, who.uid, who.uid) < 0 ? errno : 0;
}
