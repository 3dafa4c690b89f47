/* The TCP ports that are listened on in the sandbox, for observe.c. */
#include "observe.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/fsuid.h>
#include <sys/socket.h>

/* `judged`, `told`: as of a process; `family` and `address` as inet_ntop(3) has them. */
struct port {
  uint16_t number;
  uint8_t family, address[16];
  unsigned long inode;
  bool seen, judged, told;
  pid_t pid; /* or 0 */
  char *command;
};
static struct port ports[PORTS_MAX];
static size_t port_count;

static void say(char what, const struct port *port) {
  char address[INET6_ADDRSTRLEN];
  out_number(what, port->number);
  out_field(inet_ntop(port->family, port->address, address, sizeof address));
  out_number(0, port->pid);
  out_field(port->command ? port->command : "");
}

/* Several sockets may share one address and port. */
static void listens(uint8_t family, const void *address, uint16_t number, unsigned long inode) {
  size_t bytes = family == AF_INET ? 4 : 16;
  for (struct port *port = ports; port < ports + port_count; port++)
    if (port->number == number && port->family == family && !memcmp(port->address, address, bytes)) {
      port->seen = true;
      return;
    }
  if (port_count == PORTS_MAX) return;
  struct port *port = &ports[port_count++];
  *port = (struct port){ .number = number, .family = family, .inode = inode, .seen = true };
  memcpy(port->address, address, bytes);
}

/* Asks the kernel for the sockets in state LISTEN alone (sock_diag(7)), of which there are few. */
static bool ask(uint8_t family) {
  static int diag = -1;
  static char answer[32 << 10] __attribute__((aligned(__alignof__(struct nlmsghdr))));
  struct { struct nlmsghdr head; struct inet_diag_req_v2 body; } request = {
    .head = { .nlmsg_len = sizeof request, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
    .body = { .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << TCP_LISTEN },
  };
  if (diag < 0) diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (diag < 0 || send(diag, &request, sizeof request, 0) < 0) return false;
  for (;;) {
    ssize_t n = recv(diag, answer, sizeof answer, 0);
    if (n <= 0) return false;
    size_t left = (size_t)n;
    for (struct nlmsghdr *head = (struct nlmsghdr *)(void *)answer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
      if (head->nlmsg_type == NLMSG_DONE) return true;
      if (head->nlmsg_type == NLMSG_ERROR) return false;
      const struct inet_diag_msg *message = NLMSG_DATA(head);
      listens(message->idiag_family, message->id.idiag_src, ntohs(message->id.idiag_sport), message->idiag_inode);
    }
  }
}

/* Where there is no sock_diag: the table of all connections (proc_net(5)). */
static void read_table(const char *path, uint8_t family) {
  char line[512];
  FILE *file = fopen(path, "re");
  while (file && fgets(line, sizeof line, file)) {
    uint32_t address[4] = { 0 };
    unsigned number, state;
    unsigned long inode;
    char text[33];
    if (sscanf(line, " %*u: %32[0-9A-F]:%4x %*[0-9A-F]:%*x %2x %*x:%*x %*x:%*x %*x %*u %*u %lu", text, &number, &state, &inode) != 4) continue;
    if (state != TCP_LISTEN || strlen(text) != (family == AF_INET ? 8 : 32)) continue;
    for (int i = 0; i < (family == AF_INET ? 1 : 4); i++) sscanf(text + 8 * i, "%8x", &address[i]); /* in the host's order */
    listens(family, address, (uint16_t)number, inode);
  }
  if (file) fclose(file);
}

/* Finds out whose the new ports are. Another user's descriptors show to that user only, as which root may look. */
static void find_owners(void) {
  char path[64], link[64];
  for (struct process *process = processes; process < processes + process_count; process++) {
    struct stat owner;
    unsigned long inode;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d", process->pid);
    if (process->ours || stat(path, &owner) < 0) continue;
    setfsgid(owner.st_gid), setfsuid(owner.st_uid);
    strcat(path, "/fd");
    DIR *directory = opendir(path);
    while (directory && (entry = readdir(directory))) {
      ssize_t n = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
      link[n > 0 ? n : 0] = 0;
      if (sscanf(link, "socket:[%lu]", &inode) != 1) continue;
      for (struct port *port = ports; port < ports + port_count; port++)
        if (!port->judged && port->inode == inode) port->pid = process->pid;
    }
    if (directory) closedir(directory);
    setfsuid(geteuid()), setfsgid(getegid());
  }
}

void look_at_ports(void) {
  bool fresh = false;
  for (size_t i = 0; i < port_count; i++) ports[i].seen = false;
  if (!ask(AF_INET)) read_table("/proc/net/tcp", AF_INET);
  if (!ask(AF_INET6)) read_table("/proc/net/tcp6", AF_INET6);
  for (size_t i = port_count; i-- > 0;) {
    fresh |= !ports[i].judged;
    if (ports[i].seen) continue;
    if (ports[i].told) say('u', &ports[i]);
    free(ports[i].command);
    ports[i] = ports[--port_count];
  }
  if (fresh) find_owners();
  for (struct port *port = ports; fresh && port < ports + port_count; port++) {
    if (port->judged) continue;
    port->judged = true;
    if (port->pid > 0) port->command = command_of(port->pid, NULL);
    port->told = is_of_sandbox(port->pid);
    if (port->told) say('l', port);
  }
}
