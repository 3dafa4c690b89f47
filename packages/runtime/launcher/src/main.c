#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* An earlier launcher of the directory may still be on its way out. */
#define LOCK_TRIES_MAX 2000
#define LOCK_WAIT_NS 10000000

struct settings settings;

static void print(const char *text)
{
	if (write(STDOUT_FILENO, text, strlen(text)) < 0)
		_exit(3);
}

static void usage(void)
{
	print("usage: launcher --directory DIR --oci BINARY --cgroup PATH --hierarchy DIR ... [--hide MOUNT] [--disk-bytes N]\n");
	_exit(2);
}

static void parse(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--directory") == 0)
			settings.directory = value;
		else if (strcmp(argv[i], "--oci") == 0)
			settings.oci_binary = value;
		else if (strcmp(argv[i], "--cgroup") == 0)
			settings.cgroup = value;
		else if (strcmp(argv[i], "--hide") == 0)
			settings.hide = value;
		else if (strcmp(argv[i], "--disk-bytes") == 0)
			settings.disk_bytes = strtoull(value, NULL, 10);
		else if (strcmp(argv[i], "--hierarchy") == 0 && settings.hierarchy_count < MAX_HIERARCHIES)
			settings.hierarchies[settings.hierarchy_count++] = value;
		else
			usage();
	}
	if (argc % 2 == 0 || settings.directory == NULL || settings.oci_binary == NULL || settings.cgroup == NULL)
		usage();
}

/* Nothing of whoever started us stays with us but the stream that is told whether we are ready. */
static void detach(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, STDIN_FILENO);
	syscall(SYS_close_range, 3, ~0U, 0);
	setsid();
	umask(022);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_DUMPABLE, 0);
}

static int take_signals(void)
{
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	return signals < 0 ? fail("signalfd") : signals;
}

/* The directory has one launcher. */
static int lock(int directory)
{
	int fd = openat(directory, "launcher.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail("open launcher.lock");
	for (int tries = 0; tries < LOCK_TRIES_MAX; tries++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_WAIT_NS }, NULL);
	}
	return fail("another launcher has the directory");
}

int main(int argc, char **argv)
{
	const char *action = getenv("CRTOOLS_SCRIPT_ACTION");
	if (argc == 1 && action != NULL)
		return criu_hook(action);
	parse(argc, argv);
	detach();
	int signals = take_signals();
	int directory = open(settings.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		fail("open %s", settings.directory);
	if (signals < 0 || directory < 0 || chdir("/") != 0 || lock(directory) != 0 || mounts_open() != 0)
		goto failed;
	/* They may hold the disk, and nobody else will end them. */
	leftovers_remove(false);
	failure[0] = '\0';
	if (disk_open() != 0 || peer_open(directory) != 0)
		goto failed;
	print("ready\n");
	dup2(STDIN_FILENO, STDOUT_FILENO);
	dup2(STDIN_FILENO, STDERR_FILENO);
	peer_loop(signals);
	return 0;
failed:
	print(failure);
	return 1;
}
