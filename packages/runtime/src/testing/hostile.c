/* What hostile code tries, one attempt a verb; built statically at test time and run in a sandbox. Attempts that must be
 * refused print one line each, "NAME ERRNO" (0: it was allowed), and the caller judges. Arguments are such that a kernel
 * which allows the call does no harm by it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void report(const char *name, long result)
{
  printf("%s %d\n", name, result < 0 ? errno : 0);
  fflush(stdout);
}

#define TRY(name, ...) report(#name, syscall(SYS_##name, __VA_ARGS__))

static int calls(void)
{
  struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
  char page[4096] = { 0 };
  TRY(bpf, 0, page, 64);
  TRY(keyctl, 0, -3, 0);
  TRY(add_key, "user", "name", "x", 1, -3);
  TRY(request_key, "user", "name", NULL, 0);
  TRY(userfaultfd, 0);
  TRY(kexec_load, 0, 0, NULL, 0);
  TRY(kexec_file_load, -1, -1, 0, "", 0);
  TRY(open_by_handle_at, AT_FDCWD, page, O_RDONLY);
  TRY(name_to_handle_at, AT_FDCWD, "/", page, page + 64, 0);
  TRY(unshare, CLONE_NEWUSER);
  TRY(setns, open("/proc/self/ns/mnt", O_RDONLY), 0);
  TRY(mount, "none", "/mnt", "tmpfs", 0, NULL);
  TRY(umount2, "/proc", MNT_DETACH);
  TRY(pivot_root, "/", "/");
  TRY(fsopen, "tmpfs", 0);
  TRY(open_tree, AT_FDCWD, "/", 1);
  TRY(move_mount, AT_FDCWD, "/", AT_FDCWD, "/tmp", 0);
  TRY(mount_setattr, AT_FDCWD, "/", 0, page, 32);
  TRY(perf_event_open, page, 0, -1, -1, 0);
  TRY(init_module, page, 0, "");
  TRY(finit_module, -1, "", 0);
  TRY(delete_module, "none", 0);
  TRY(reboot, 0, 0, 0, NULL);
  TRY(swapon, "/none", 0);
  TRY(swapoff, "/none");
  TRY(settimeofday, NULL, NULL);
  TRY(clock_settime, -1, page);
  TRY(acct, "/none");
  TRY(quotactl, 0, NULL, 0, NULL);
  TRY(io_uring_setup, 1, page);
  TRY(syslog, 10, NULL, 0);
  TRY(vhangup, 0);
  TRY(move_pages, 0, 0, NULL, NULL, NULL, 0);
  TRY(fanotify_init, 0, 0);
  TRY(pidfd_getfd, -1, 0, 0);
  TRY(clone3, &args, sizeof args);
  TRY(personality, 0x0400000 /* READ_IMPLIES_EXEC */);
  report("socket(AF_VSOCK)", socket(40, SOCK_STREAM, 0));
  report("socket(AF_ALG)", socket(38, SOCK_SEQPACKET, 0));
  report("socket(AF_PACKET)", socket(AF_PACKET, SOCK_RAW, 0));
  report("socket(NETLINK_NETFILTER)", socket(AF_NETLINK, SOCK_RAW, 12));
  report("socket(NETLINK_KOBJECT_UEVENT)", socket(AF_NETLINK, SOCK_RAW, 15));
  report("socket(SOCK_RAW)", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  /* The child of a clone that is allowed must not go on here. */
  long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) _exit(0);
  report("clone(CLONE_NEWUSER)", child);
  return 0;
}

static int trace(void)
{
  char page[64], memory[64];
  report("ptrace(1)", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
  report("ptrace_seize(1)", ptrace(PTRACE_SEIZE, 1, NULL, NULL));
  report("mem(1)", open("/proc/1/mem", O_RDWR));
  report("environ(1)", open("/proc/1/environ", O_RDONLY));
  report("fd(1)", open("/proc/1/fd/0", O_RDWR));
  snprintf(page, sizeof page, "/proc/1/root");
  report("root(1)", open(page, O_RDONLY));
  report("cwd(1)", readlink("/proc/1/cwd", memory, sizeof memory));
  return 0;
}

static int devices(void)
{
  report("mknod(block)", mknod("/tmp/disk", S_IFBLK | 0600, makedev(8, 0)));
  report("mknod(mem)", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
  report("open(mem)", open("/dev/mem", O_RDWR));
  report("open(kmsg)", open("/dev/kmsg", O_RDONLY));
  return 0;
}

/* The old way out of chroot(2): a working directory outside the new root. Prints what the file then says. */
static int escape(const char *path)
{
  char text[256];
  mkdir("/tmp/inner", 0700);
  int outside = open("/", O_RDONLY | O_DIRECTORY);
  if (chroot("/tmp/inner") < 0 || fchdir(outside) < 0) return 3;
  for (int i = 0; i < 64; i++)
    if (chdir("..") < 0) return 4;
  if (chroot(".") < 0) return 5;
  int fd = open(path, O_RDONLY);
  ssize_t bytes = fd < 0 ? -1 : read(fd, text, sizeof text);
  if (bytes > 0) (void)!write(1, text, (size_t)bytes);
  return bytes > 0 ? 0 : 6;
}

/* Connects to 127.0.0.1:PORT, or to a name in the abstract namespace. */
static int connect_to(const char *kind, const char *where)
{
  struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where)) };
  struct sockaddr_un local = { .sun_family = AF_UNIX };
  tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (!strcmp(kind, "tcp")) {
    report("connect(tcp)", connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&tcp, sizeof tcp));
    return 0;
  }
  strncpy(local.sun_path + 1, where, sizeof local.sun_path - 2);
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(where));
  report("connect(abstract)", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&local, length));
  return 0;
}

/* Waits for one connection on 127.0.0.1:PORT; says when it listens. */
static int listen_on(const char *port)
{
  struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
  tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(fd, (struct sockaddr *)&tcp, sizeof tcp) < 0 || listen(fd, 1) < 0) return 1;
  puts("listening");
  fflush(stdout);
  return accept(fd, NULL, NULL) < 0;
}

/* BTRFS_IOC_SUBVOL_CREATE, which asks for no privilege: a subvolume is room without a quota. */
static int subvolumes(int count, char **directories)
{
  struct { long long fd; char name[4088]; } arguments = { 0, "subvolume" };
  for (int i = 0; i < count; i++)
    report(directories[i], ioctl(open(directories[i], O_RDONLY | O_DIRECTORY), _IOW(0x94, 14, arguments), &arguments));
  return 0;
}

/* What of the disk is not the bytes of files: names, attributes, what was reserved, what has no name any more. */
static int hoard(const char *what)
{
  static char bytes[1 << 16];
  char path[256];
  memset(bytes, 'x', sizeof bytes);
  int file = open("/tmp/hoard", O_CREAT | O_RDWR, 0600);
  for (int i = 0; i < 1 << 20; i++) {
    int failed = 0;
    snprintf(path, sizeof path, "/tmp/hoard-%0200d", i);
    if (!strcmp(what, "names")) failed = link("/tmp/hoard", path) < 0;
    else if (!strcmp(what, "reserved")) failed = posix_fallocate(file, (off_t)i << 20, 1 << 20) != 0;
    else {
      int fd = open(path, O_CREAT | O_RDWR, 0600);
      failed = fd < 0;
      if (!failed && !strcmp(what, "attributes")) failed = fsetxattr(fd, "user.x", bytes, 8000, 0) < 0;
      if (!failed && !strcmp(what, "unlinked")) failed = unlink(path) < 0 || write(fd, bytes, sizeof bytes) < 0;
      else close(fd);
    }
    if (failed) return 0;
  }
  return 1;
}

/* Forks without end; children do the same. */
static _Noreturn void bomb(void)
{
  signal(SIGCHLD, SIG_IGN);
  for (;;)
    if (fork() < 0 && errno == EAGAIN) sched_yield();
}

/* Two forks and a session of its own, streams closed: away from whoever started it. NAME shows in its command line. */
static int daemonise(void)
{
  if (fork() != 0) return 0;
  setsid();
  if (fork() != 0) _exit(0);
  for (int fd = 0; fd < 64; fd++) close(fd);
  signal(SIGTERM, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  for (;;) pause();
}

/* Allocates and touches until it is killed. */
static _Noreturn void eat(void)
{
  for (;;) {
    char *block = malloc(1 << 20);
    if (block) memset(block, 1, 1 << 20);
  }
}

int main(int argc, char **argv)
{
  const char *verb = argc > 1 ? argv[1] : "";
  if (!strcmp(verb, "calls")) return calls();
  if (!strcmp(verb, "trace")) return trace();
  if (!strcmp(verb, "devices")) return devices();
  if (!strcmp(verb, "bomb")) bomb();
  if (!strcmp(verb, "eat")) eat();
  if (argc > 2 && !strcmp(verb, "daemonise")) return daemonise();
  if (argc > 2 && !strcmp(verb, "escape")) return escape(argv[2]);
  if (!strcmp(verb, "subvolumes")) return subvolumes(argc - 2, argv + 2);
  if (argc > 2 && !strcmp(verb, "hoard")) return hoard(argv[2]);
  if (argc > 2 && !strcmp(verb, "listen")) return listen_on(argv[2]);
  if (argc > 3 && !strcmp(verb, "connect")) return connect_to(argv[2], argv[3]);
  return 64;
}
