/* Memory of sandboxes by CRIU (criu(8)): their processes as files, and processes again. CRIU runs in our mount namespace, whose
 * /run is a tmpfs: there it keeps what it found out about the kernel. Of a sandbox it dumps all but what the next one is given
 * by its host: the folder of the agent's sockets, volumes, the network. */
#define _GNU_SOURCE
#include "launcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ARGUMENTS 256
#define MAX_TEXT 32768
/* Files that were deleted while they are open go into the images up to this size each. */
#define GHOST_BYTES "67108864"
/* How our hook learns which network the sandbox is to have: `NAMESPACE ADDRESS HOST UID-BASE`, or nothing. */
#define NETWORK_WISH "BRAMBLE_NETWORK"

static struct {
	char *argv[MAX_ARGUMENTS];
	char text[MAX_TEXT];
	int count;
	size_t used;
	bool full;
} line;

static void add(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void add(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line.text + line.used, sizeof line.text - line.used, format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= sizeof line.text - line.used || line.count + 1 >= MAX_ARGUMENTS) {
		line.full = true;
		return;
	}
	line.argv[line.count++] = line.text + line.used;
	line.argv[line.count] = NULL;
	line.used += (size_t)length + 1;
}

/* The words that both directions begin with. */
static int begin(const char *verb, const char *images, const char *work, const char *log)
{
	char command[PATH_MAX * 2];
	memset(&line, 0, sizeof line);
	if (settings.criu == NULL || settings.criu[0] == '\0') {
		errno = 0;
		return fail("CRIU is not there");
	}
	snprintf(command, sizeof command, "%s", settings.criu);
	for (char *rest = command, *word; (word = strsep(&rest, "\n")) != NULL;)
		add("%s", word);
	add("%s", verb);
	add("--images-dir");
	add("%s", images);
	add("--work-dir");
	add("%s", work);
	add("--log-file");
	add("%s", log);
	add("-v2");
	add("--ext-unix-sk");
	add("--file-locks");
	add("--manage-cgroups=ignore");
	add("--network-lock");
	add("skip");
	add("--empty-ns");
	add("net");
	add("--external");
	add("mnt[]:ms");
	return 0;
}

/* Runs what `begin` and `add` have put together, in the cgroups of `cgroup` where there is one: what CRIU restores is born in
 * its own. */
static pid_t spawn(const char *cgroup, const char *network)
{
	static char wish[256];
	char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", wish, NULL };
	snprintf(wish, sizeof wish, NETWORK_WISH "=%s", network == NULL ? "" : network);
	if (line.full) {
		errno = 0;
		return fail("too many arguments for CRIU");
	}
	pid_t launcher = getpid(), pid = fork();
	if (pid != 0)
		return pid < 0 ? fail("fork") : pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != launcher)
		_exit(127);
	setpgid(0, 0);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	for (int i = 0; cgroup != NULL && i < settings.hierarchy_count; i++) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "%s%s/%s/cgroup.procs", settings.hierarchies[i], settings.cgroup, cgroup);
		if (write_file(path, "0", 1) != 0)
			_exit(126);
	}
	/* The root of its view of the hierarchies is the sandbox's cgroup. */
	if (cgroup != NULL && unshare(CLONE_NEWCGROUP) != 0)
		_exit(126);
	execvpe(line.argv[0], line.argv, environment);
	_exit(127);
}

/* Of a cgroup that is frozen, and stays so. */
static void add_freezer(const char *id)
{
	static const char *const files[] = { "freezer.state", "cgroup.freeze" };
	for (int i = 0; i < settings.hierarchy_count; i++)
		for (int f = 0; f < 2; f++) {
			char path[PATH_MAX];
			snprintf(path, sizeof path, "%s%s/%s/%s", settings.hierarchies[i], settings.cgroup, id, files[f]);
			if (access(path, F_OK) != 0)
				continue;
			add("--freeze-cgroup");
			add("%s%s/%s", settings.hierarchies[i], settings.cgroup, id);
			return;
		}
}

/* Dumps the tree of `init` into the images of a seal, and leaves it as it is. `places`: where volumes are mounted, one a line. */
pid_t criu_dump(const char *id, pid_t init, const char *seal, char *places)
{
	char images[PATH_MAX];
	int number = 0;
	snprintf(images, sizeof images, "%s/.%s/memory", SEALS, seal);
	if (make_directory(images, 0711) != 0 || begin("dump", images, images, "dump.log") != 0)
		return -1;
	add("--tree");
	add("%d", init);
	add("--leave-running");
	add("--tcp-established");
	add("--ghost-limit");
	add(GHOST_BYTES);
	add("--external");
	add("mnt[/.bramble/run]:run");
	for (char *place; (place = strsep(&places, "\n")) != NULL;) {
		if (*place == '\0')
			continue;
		add("--external");
		add("mnt[%s]:v%d", place, number++);
	}
	add_freezer(id);
	return spawn(NULL, NULL);
}

static int hex(char digit)
{
	return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* An image that is another one than the seal's: `NAME:HEX`. */
static int write_image(const char *folder, const char *image)
{
	static char bytes[MAX_TEXT];
	char path[PATH_MAX];
	const char *colon = strchr(image, ':');
	size_t length = 0;
	if (colon == NULL || memchr(image, '/', (size_t)(colon - image)) != NULL)
		return fail("an image without a name");
	for (const char *at = colon + 1; at[0] != '\0' && length < sizeof bytes; at += 2) {
		int high = hex(at[0]), low = high < 0 ? -1 : hex(at[1]);
		if (low < 0)
			return fail("an image that is not hexadecimal");
		bytes[length++] = (char)(high << 4 | low);
	}
	snprintf(path, sizeof path, "%s/%.*s", folder, (int)(colon - image), image);
	unlink(path);
	/* It is read by who becomes the sandbox's first process, too, and that is nobody here. */
	return write_file(path, bytes, length) == 0 && chmod(path, 0644) == 0 ? 0 : fail("write %s", path);
}

static void link_image(const char *seal, const char *folder, const char *name)
{
	char from[PATH_MAX], to[PATH_MAX];
	/* Relative: it is followed by a process that has another root directory by then. */
	snprintf(from, sizeof from, "../..%s/%s/memory/%s", SEALS + strlen(RUN), seal, name);
	snprintf(to, sizeof to, "%s/%s", folder, name);
	if (symlink(from, to) != 0)
		fail("link the image %s", name);
}

static const char *linked_seal, *linked_folder;
static void link_one(const char *name) { link_image(linked_seal, linked_folder, name); }

/* Restores a seal's processes over the root filesystem of `id`. Its pid file says who is their first. */
pid_t criu_restore(const char *id, const struct wanted *wanted)
{
	char folder[sizeof RUN + ID_BYTES + 8], run[sizeof RUN + ID_BYTES], source[PATH_MAX], launcher[32];
	snprintf(run, sizeof run, "%s/%s", RUN, id);
	snprintf(folder, sizeof folder, "%s/img", run);
	snprintf(source, sizeof source, "%s/%s/memory", SEALS, wanted->from);
	if (make_directory(folder, 0711) != 0)
		return -1;
	linked_seal = wanted->from;
	linked_folder = folder;
	if (files_list(source, link_one) != 0 || failure[0] != '\0')
		return -1;
	for (int i = 0; i < wanted->image_count; i++)
		if (write_image(folder, wanted->images[i]) != 0)
			return -1;
	/* An update may have put another program in our place. */
	snprintf(launcher, sizeof launcher, "/proc/%d/exe", getpid());
	if (begin("restore", folder, run, "log") != 0)
		return -1;
	add("--restore-detached");
	add("--restore-sibling");
	add("--pidfile");
	add("%s/pid", run);
	add("--root");
	add("%s/rootfs", run);
	add("--external");
	add("mnt[run]:%s/run", run);
	for (int i = 0; i < wanted->place_count; i++) {
		add("--external");
		add("mnt[v%d]:%s/v%d", i, run, i);
	}
	add(wanted->keep_connections ? "--tcp-established" : "--tcp-close");
	add("--action-script");
	add("%s", launcher);
	return spawn(id, wanted->network);
}

/* Hands over to the program beside us that knows networks. */
static int adopt_network(char *wish, const char *init)
{
	char program[PATH_MAX], *word[4];
	ssize_t length = readlink("/proc/self/exe", program, sizeof program - 16);
	if (length < 0)
		return 1;
	program[length] = '\0';
	strcpy(strrchr(program, '/'), "/networks"); /* the folder is the same, if an update replaced us */
	for (int i = 0; i < 4; i++)
		if ((word[i] = strsep(&wish, " ")) == NULL)
			return 1;
	execl(program, program, "adopt", word[0], init, word[1], word[2], word[3], NULL);
	return 1;
}

/* What CRIU calls us for while it restores (criu(8), `--action-script`): when the namespaces are there, the network of the sandbox
 * is set up, or its loopback device alone. Sockets are bound again after that. */
int criu_hook(const char *action)
{
	char path[64];
	const char *init = getenv("CRTOOLS_INIT_PID");
	char *wish = getenv(NETWORK_WISH);
	if (strcmp(action, "setup-namespaces") != 0)
		return 0;
	if (init == NULL)
		return 1;
	if (wish != NULL && *wish != '\0')
		return adopt_network(wish, init);
	snprintf(path, sizeof path, "/proc/%d/ns/net", atoi(init));
	int namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (namespace < 0 || setns(namespace, CLONE_NEWNET) != 0)
		return 1;
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &loopback) == 0 ? 0 : 1;
}

/* The first lines of CRIU's log that say what went wrong. */
void criu_words(const char *path)
{
	static char log[262144];
	char words[1024] = "";
	size_t used = 0;
	if (read_file(path, log, sizeof log) <= 0)
		return;
	for (char *rest = log, *text; (text = strsep(&rest, "\n")) != NULL;) {
		char *error = strstr(text, "Error (");
		char *colon = error == NULL ? NULL : strstr(error, "): ");
		if (colon == NULL || strstr(colon, "RLIMIT_NOFILE") != NULL || used + strlen(colon) + 4 > sizeof words)
			continue;
		used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", used > 0 ? "; " : "", colon + 3);
	}
	errno = 0;
	if (used > 0)
		fail("%s", words);
}
