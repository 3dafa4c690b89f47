/* The node, as a peer over a socket of the node's directory: one at a time. A node that goes leaves its kept sandboxes to
 * the next one; when none is kept, there is nothing to wait for. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCKET_NAME "launcher.sock"
#define MAX_REQUEST_BYTES (1 << 20)
#define MAX_FIELDS 8
/* How long a launcher waits for its first node, and a connection may take to say who it is. */
#define HELLO_TIMEOUT_MS 10000

static int directory = -1, listener = -1, peer = -1;
static bool greeted;    /* the peer is a node that we agree with */
static bool leaving;    /* nothing is taken any more; we go when the last sandbox is released */
static int64_t patience_ms; /* when to give up on a `hello`; 0: none is waited for */
static char buffer[MAX_REQUEST_BYTES + 4];
static size_t have;

static void write_all(int fd, const char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t wrote = send(fd, data, bytes, MSG_NOSIGNAL);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return; /* the peer is gone: its end of file follows */
		data += wrote;
		bytes -= (size_t)wrote;
	}
}

static void say(int fd, const char *tag, const char *kind, const char *text, const char *more)
{
	/* Room for the longest text there is, in one write: the peer reads a message at once. */
	static char message[MAX_SANDBOXES * (2 * ID_BYTES + 16) + 4 * sizeof failure];
	const char *const fields[] = { tag, kind, text, more };
	uint32_t used = sizeof used;
	for (int i = 0; i < 4; i++) {
		size_t bytes = strlen(fields[i]) + 1;
		if (bytes > sizeof message - used)
			break;
		memcpy(message + used, fields[i], bytes);
		used += (uint32_t)bytes;
	}
	uint32_t length = used - (uint32_t)sizeof length;
	memcpy(message, &length, sizeof length);
	write_all(fd, message, used);
}

void reply_two(const char *tag, const char *kind, const char *text, const char *more)
{
	if (peer >= 0)
		say(peer, tag, kind, text, more);
}

void reply(const char *tag, const char *kind, const char *text)
{
	reply_two(tag, kind, text, "");
}

int peer_open(int where)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	directory = where;
	/* The directory's own path may be longer than unix(7) allows. */
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" SOCKET_NAME, directory);
	if (unlinkat(directory, SOCKET_NAME, 0) != 0 && errno != ENOENT)
		return fail("unlink " SOCKET_NAME);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask = umask(0177);
	int result = listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0
		? fail("listen on " SOCKET_NAME) : 0;
	umask(mask);
	return result;
}

static void drop_peer(void)
{
	if (peer >= 0)
		close(peer);
	peer = -1;
	greeted = false;
	have = 0;
}

static void leave(void)
{
	leaving = true;
	sandbox_end_all(true);
}

/* Tells a second node why not. What it says first may still be on its way, and would meet a closed socket, and the reason
 * would be lost: so the socket stays until the next one is refused. */
static void turn_away(int fd)
{
	static int last = -1;
	say(fd, "", "refused", "another node uses the sandboxes of this directory", "");
	shutdown(fd, SHUT_WR);
	if (last >= 0)
		close(last);
	last = fd;
}

static void accept_one(void)
{
	struct ucred who = { .uid = (uid_t)-1 };
	socklen_t length = sizeof who;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0 || who.uid != geteuid()) {
		close(fd);
	} else if (peer >= 0) {
		turn_away(fd);
	} else {
		peer = fd;
		patience_ms = now_ms() + HELLO_TIMEOUT_MS;
	}
}

/* What a node must agree on: where the sandboxes' cgroups are. Returns where it does not, or NULL. */
static const char *disagreement(const char *cgroup, char *hierarchies, const char *hide)
{
	int count = 0;
	if (strcmp(cgroup, settings.cgroup) != 0)
		return "their cgroup is another: the directory was moved while they run";
	for (char *path; (path = strsep(&hierarchies, "\n")) != NULL; count++)
		if (count >= settings.hierarchy_count || strcmp(path, settings.hierarchies[count]) != 0)
			return "the cgroup hierarchies of the host were other ones when they were made";
	if (count != settings.hierarchy_count || strcmp(hide, settings.hide == NULL ? "" : settings.hide) != 0)
		return "the cgroup hierarchies of the host were other ones when they were made";
	return NULL;
}

static void refuse(const char *tag, const char *why)
{
	char text[512];
	int kept = sandbox_kept();
	if (kept == 0) {
		/* Nothing is lost: a launcher of the node's own kind takes over. */
		reply(tag, "retired", why);
		leave();
		return;
	}
	snprintf(text, sizeof text, "%d kept sandboxes run with the launcher of process %d: %s. `kill %d` ends them; their files stay",
		kept, getpid(), why, getpid());
	reply(tag, "refused", text);
	drop_peer();
}

/* tag, `hello`, version, OCI binary, cgroup, hierarchies (one a line), hidden mount, CRIU's command (one word a line) */
static void greet(char **field, int count)
{
	static char *oci_binary, *criu;
	char text[sizeof image_notice + 128];
	const char *tag = field[0], *why = NULL;
	if (count < 3 || strlen(tag) >= 32 || strcmp(field[1], "hello") != 0) {
		drop_peer();
		return;
	}
	if (atoi(field[2]) != PROTOCOL_VERSION || count < 8)
		why = "it is of another version of Bramble";
	else
		why = disagreement(field[4], field[5], field[6]);
	if (why != NULL) {
		refuse(tag, why);
		return;
	}
	/* The binary is needed to make sandboxes only, so another one serves as well. */
	free(oci_binary);
	free(criu);
	settings.oci_binary = oci_binary = strdup(field[3]);
	settings.criu = criu = strdup(field[7]);
	if (oci_binary == NULL || criu == NULL)
		abort();
	greeted = true;
	patience_ms = 0;
	snprintf(text, sizeof text, "pid=%d\ndisk=%s\nnotice=%s", getpid(), settings.disk_bytes > 0 ? "btrfs" : "tmpfs", image_notice);
	image_notice[0] = '\0';
	reply(tag, "ok", text);
}

/* Takes whole requests off the buffer. False when the peer broke the framing. */
static bool take_requests(void)
{
	size_t at = 0;
	while (have - at >= 4) {
		uint32_t length;
		memcpy(&length, buffer + at, 4);
		if (length == 0 || length > MAX_REQUEST_BYTES)
			return false;
		if (have - at - 4 < length)
			break;
		char *message = buffer + at + 4, *field[MAX_FIELDS];
		int count = 0;
		if (message[length - 1] != '\0')
			return false;
		for (size_t i = 0; i < length && count < MAX_FIELDS; count++) {
			field[count] = message + i;
			i += strlen(field[count]) + 1;
		}
		if (greeted)
			request_dispatch(field, count);
		else
			greet(field, count);
		if (peer < 0)
			return true; /* it was refused, and the buffer is another's now */
		at += 4 + length;
	}
	memmove(buffer, buffer + at, have - at);
	have -= at;
	return true;
}

/* Whether the peer is there still. */
static bool hear(void)
{
	ssize_t got = recv(peer, buffer + have, sizeof buffer - have, MSG_DONTWAIT);
	if (got < 0)
		return errno == EINTR || errno == EAGAIN;
	have += (size_t)got;
	return got > 0 && take_requests();
}

static void take_signals(int signals)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;
	while (read(signals, &info, sizeof info) == sizeof info)
		if (info.ssi_signo == SIGTERM && !leaving)
			leave();
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (!sealing_reaped(pid, status))
			sandbox_reaped(pid, status);
}

static int wait_ms(void)
{
	int sandboxes_ms = sandbox_patience_ms(), sealings_ms = sealing_patience_ms();
	if (sealings_ms >= 0 && (sandboxes_ms < 0 || sealings_ms < sandboxes_ms))
		sandboxes_ms = sealings_ms;
	if (patience_ms == 0)
		return sandboxes_ms;
	int64_t left = patience_ms - now_ms();
	if (left < 0)
		left = 0;
	return sandboxes_ms >= 0 && sandboxes_ms < left ? sandboxes_ms : (int)left;
}

void peer_loop(int signals)
{
	static struct pollfd polled[MAX_SANDBOXES + 3];
	static int index[MAX_SANDBOXES + 3];
	bool parting = false; /* the peer has gone, and what was its alone is being released */
	patience_ms = now_ms() + HELLO_TIMEOUT_MS;
	while (!leaving || sandbox_high_water() > 0) {
		int count = 0;
		/* Nothing can be made any more, and what runs cannot write: the next launcher mounts the disk again. */
		if (!leaving && sandbox_failed && disk_is_lost()) {
			reply("", "fatal", "the disk of the sandboxes is read-only after a failed write: the kernel's log says why");
			leave();
			continue;
		}
		sandbox_failed = false;
		if (parting && sandbox_leaving() == 0 && !sealing_busy()) {
			parting = false;
			if (settings.disk_bytes > 0)
				seals_remove_half_made();
			drop_peer();
		}
		if (peer < 0 && patience_ms == 0 && sandbox_high_water() == 0)
			break;
		polled[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
		polled[count++] = (struct pollfd){ .fd = peer >= 0 && !parting && !leaving ? peer : -1, .events = POLLIN };
		/* Whoever comes while a node parts waits until it is known whether we go too. */
		polled[count++] = (struct pollfd){ .fd = parting || leaving ? -1 : listener, .events = POLLIN };
		for (int i = 0; i < sandbox_high_water(); i++) {
			if (sandbox_ready_fd(i) < 0)
				continue;
			index[count] = i;
			polled[count++] = (struct pollfd){ .fd = sandbox_ready_fd(i), .events = POLLIN };
		}
		int events = poll(polled, (nfds_t)count, wait_ms());
		sandbox_expire();
		sealing_expire();
		if (patience_ms > 0 && now_ms() >= patience_ms) {
			patience_ms = 0;
			drop_peer();
		}
		if (events <= 0)
			continue;
		for (int i = 3; i < count; i++)
			if (polled[i].revents != 0)
				sandbox_ready(index[i]);
		if (polled[0].revents != 0)
			take_signals(signals);
		if (polled[1].revents != 0 && peer >= 0 && !hear()) {
			parting = greeted;
			if (greeted)
				sandbox_end_all(false);
			else
				drop_peer();
		}
		if (polled[2].revents != 0)
			accept_one();
	}
	/* Whoever connects from now on finds nobody, and starts another; whoever waits at the other end hears of the end last. */
	unlinkat(directory, SOCKET_NAME, 0);
	close(listener);
	disk_close();
	cgroups_close();
}
