/* What observe.c and ports.c share. */
#ifndef OBSERVE_H
#define OBSERVE_H
#include "applets.h"

enum { PROCESSES_MAX = 4096, PORTS_MAX = 1024, COMMAND_BYTES_MAX = 1024 };

/* `known`: its command is; `judged`: whether it is to be told was decided; `ours`: an agent or one of its applets. */
extern struct process {
  pid_t pid, parent;
  uint64_t began;
  int64_t first_ms; /* when it was seen first */
  int handle; /* a pidfd, or -1 */
  bool seen, known, judged, told, ours;
  char *command;
} processes[PROCESSES_MAX];
extern size_t process_count;
char *command_of(pid_t pid, bool *ours);
bool is_of_sandbox(pid_t pid);
void out_field(const char *text), out_number(char what, long value);

/* ports.c: tells what is listened on, as it changes. */
void look_at_ports(void);

#endif
