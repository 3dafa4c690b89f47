/**
 * What a sandbox may do, as data that every driver with a kernel underneath applies: capabilities, system calls, and
 * the parts of `/proc` and `/sys` that are out of reach. Kept in one place so that no driver is laxer than another.
 */

/**
 * The capabilities of a root process in a sandbox (capabilities(7)): what package managers, `su` and servers on low
 * ports need, and nothing that reaches past the sandbox. Without MKNOD, NET_RAW, SYS_PTRACE and SYS_ADMIN.
 */
export const SANDBOX_CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_NET_BIND_SERVICE',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
] as const

/** Numbers of capabilities that `CapBnd` of `/proc/self/status` shows as bits (linux/capability.h). */
export const CAPABILITY_BITS: Readonly<Record<(typeof SANDBOX_CAPABILITIES)[number], number>> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_SYS_CHROOT: 18,
  CAP_AUDIT_WRITE: 29,
  CAP_SETFCAP: 31,
}

/** Covered by an empty file or directory: they tell about the host, or reach its hardware. */
export const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/cmdline',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
  '/sys/fs/btrfs',
] as const

/** Mounted read-only: a write there would change the host's kernel. */
export const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'] as const

export interface SeccompRule {
  names: string[]
  action: 'SCMP_ACT_ALLOW' | 'SCMP_ACT_ERRNO'
  errnoRet?: number
  args?: {
    index: number
    value: number
    valueTwo?: number
    op: 'SCMP_CMP_EQ' | 'SCMP_CMP_NE' | 'SCMP_CMP_MASKED_EQ' | 'SCMP_CMP_GT'
  }[]
}

/** The shape that the OCI runtime specification (config-linux, seccomp) and the Docker Engine share. */
export interface SeccompProfile {
  defaultAction: 'SCMP_ACT_ERRNO'
  defaultErrnoRet: number
  syscalls: SeccompRule[]
}

const EPERM = 1
const ENOSYS = 38
const EAFNOSUPPORT = 97

const words = (text: string): string[] => text.trim().split(/\s+/)

/** Files, descriptors, polling, asynchronous I/O of the old kind. */
const FILES = words(`
  access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
  epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat
  fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync
  ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
  inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit lchown lgetxattr link
  linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat
  open openat openat2 pipe pipe2 poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead
  readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir select sendfile setxattr
  setxattrat signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee
  timerfd_create timerfd_gettime timerfd_settime truncate umask unlink unlinkat utime utimensat utimes vmsplice write
  writev chroot landlock_add_rule landlock_create_ruleset landlock_restrict_self cachestat
`)

/** Memory. */
const MEMORY = words(`
  brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap
  mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise process_mrelease
  remap_file_pages
`)

/** Processes, threads, signals, scheduling, identity. Tracing reaches only what the tracer may already signal. */
const PROCESSES = words(`
  alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv
  futex_wake get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid
  getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill pause pidfd_open
  pidfd_send_signal prctl process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction
  rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
  sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
  sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
  set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid
  setresgid setresuid setreuid setsid setuid sigaltstack tgkill tkill vfork wait4 waitid
`)

/** Time, and what a program asks about its machine. */
const TIME = words(`
  clock_getres clock_gettime clock_nanosleep getitimer getrandom gettimeofday nanosleep setitimer sysinfo time
  timer_create timer_delete timer_getoverrun timer_gettime timer_settime times uname
`)

/** Sockets (`socket` and `socketpair` are filtered by family below) and System V and POSIX messages. */
const MESSAGES = words(`
  accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive
  mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg
  sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
`)

/**
 * Known and refused, with EPERM so that a program sees a refusal and not an old kernel: mounts, namespaces, kernel
 * modules, the clock, devices, and interfaces that have been the way out of sandboxes before.
 */
export const REFUSED_SYSCALLS = words(`
  _sysctl acct add_key adjtimex bpf clock_adjtime clock_settime create_module delete_module fanotify_init fanotify_mark
  finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter
  io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind
  migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at
  open_tree perf_event_open pidfd_getfd pivot_root query_module quotactl quotactl_fd reboot request_key
  set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday stime swapoff swapon sysfs syslog
  umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old
`)

/** NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET of clone(2). */
const CLONE_NEW_NAMESPACES = 0x7e02_0000

/** UNIX, INET, INET6. */
const SOCKET_FAMILIES = [1, 2, 10]
const NETLINK = 16
/** ROUTE, which getifaddrs(3) needs, and SOCK_DIAG. The other protocols speak to parts of the kernel nobody needs here. */
const NETLINK_PROTOCOLS = [0, 4]

/** Resources of setrlimit(2), 0 to 15, without CORE. */
const RLIMIT_CORE = 4
const RLIMITS = Array.from({ length: 16 }, (_, resource) => resource).filter((resource) => resource !== RLIMIT_CORE)

/**
 * `RLIMIT_CORE` of every process of a sandbox. Below the kernel's least core file, and where the host pipes cores to a
 * program of its own (core(5)) the one value that keeps the kernel from starting it: 0 would not. So that nobody sets it
 * to 0, setting it does nothing; it says that it did, since programs set it to 0 for the same end.
 */
export const CORE_LIMIT_BYTES = 1

/** `oom_score_adj` of the agent: when the host runs out of memory, sandboxes go before what is the host's own. */
export const OOM_SCORE_ADJ = 500

/**
 * Requests of ioctl(2) are told apart by the byte of their driver. Those of btrfs (0x94) make subvolumes, which have no quota
 * and which no `rmdir` of the host's removes: a byte that differs in any bit is another driver. Reflinks, which other file
 * systems took over from it, are allowed by their number.
 */
const IOCTL_BTRFS = 0x94
const IOCTL_BITS = [0, 1, 2, 3, 4, 5, 6, 7].map((bit) => 1 << bit)
/** FICLONE, FICLONERANGE, FIDEDUPERANGE (ioctl_ficlone(2), ioctl_fideduperange(2)). */
const IOCTL_REFLINKS = [0x4004_9409, 0x4020_940d, 0xc018_9436]

/** Plain Linux, PER_LINUX32, UNAME26 with either, ADDR_NO_RANDOMIZE (debuggers), and the query. */
const PERSONALITIES = [0x0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff]

const allow = (names: string[], args?: SeccompRule['args']): SeccompRule => ({
  names,
  action: 'SCMP_ACT_ALLOW',
  ...(args && { args }),
})

const equal = (index: number, value: number) => ({ index, value, op: 'SCMP_CMP_EQ' as const })

/**
 * The allow list. What is not listed does not exist (ENOSYS), so that libraries fall back; what is known to be dangerous
 * is refused (EPERM). No `architectures`: the filter holds for the machine's own, and a call of another one (32-bit, x32)
 * kills the caller. `clone3` has its flags in memory, where no filter can see them: ENOSYS, and libraries use `clone`.
 */
export const SECCOMP_PROFILE: SeccompProfile = {
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrnoRet: ENOSYS,
  syscalls: [
    allow([...FILES, ...MEMORY, ...PROCESSES, ...TIME, ...MESSAGES]),
    allow(['clone'], [{ index: 0, value: CLONE_NEW_NAMESPACES, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }]),
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
    ...SOCKET_FAMILIES.map((family) =>
      allow(['socket', 'socketpair'], [{ index: 0, value: family, op: 'SCMP_CMP_EQ' }]),
    ),
    {
      names: ['socket', 'socketpair'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: EAFNOSUPPORT,
      args: [{ index: 0, value: NETLINK, op: 'SCMP_CMP_GT' }],
    },
    ...NETLINK_PROTOCOLS.map((protocol) => allow(['socket'], [equal(0, NETLINK), equal(2, protocol)])),
    // Each value by itself: `not CORE` would compare 64 bits, of which the kernel reads 32.
    ...RLIMITS.map((resource) => allow(['setrlimit'], [equal(0, resource)])),
    ...RLIMITS.map((resource) => allow(['prlimit64'], [equal(1, resource)])),
    allow(['prlimit64'], [equal(1, RLIMIT_CORE), equal(2, 0)]),
    { names: ['setrlimit'], action: 'SCMP_ACT_ERRNO', errnoRet: 0, args: [equal(0, RLIMIT_CORE)] },
    {
      names: ['prlimit64'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: 0,
      args: [equal(1, RLIMIT_CORE), { index: 2, value: 0, op: 'SCMP_CMP_NE' }],
    },
    ...IOCTL_BITS.map((bit) =>
      allow(['ioctl'], [{ index: 1, value: bit << 8, valueTwo: (~IOCTL_BTRFS & bit) << 8, op: 'SCMP_CMP_MASKED_EQ' }]),
    ),
    ...IOCTL_REFLINKS.map((value) => allow(['ioctl'], [equal(1, value)])),
    ...PERSONALITIES.map((value) => allow(['personality'], [{ index: 0, value, op: 'SCMP_CMP_EQ' }])),
    { names: REFUSED_SYSCALLS, action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
  ],
}
