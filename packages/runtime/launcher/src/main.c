#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_REQUEST_BYTES (1 << 20)
#define MAX_FIELDS 8

struct settings settings;

static void write_all(const char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t wrote = write(STDOUT_FILENO, data, bytes);
		if (wrote < 0 && errno == EAGAIN) {
			struct pollfd writable = { .fd = STDOUT_FILENO, .events = POLLOUT };
			poll(&writable, 1, -1);
			continue;
		}
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return; /* the peer is gone: end of file on standard input follows */
		data += wrote;
		bytes -= (size_t)wrote;
	}
}

static char listing[MAX_SANDBOXES * ID_BYTES];

void reply_two(const char *tag, const char *kind, const char *text, const char *more)
{
	/* Room for the longest text there is, in one write: the peer reads a message at once. */
	static char message[sizeof(uint32_t) + sizeof listing + 2 * sizeof failure];
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
	write_all(message, used);
}

void reply(const char *tag, const char *kind, const char *text)
{
	reply_two(tag, kind, text, "");
}

static void list_one(const char *id)
{
	size_t used = strlen(listing);
	if (strstr(listing, id) == NULL && used + strlen(id) + 2 < sizeof listing)
		snprintf(listing + used, sizeof listing - used, "%s%s", used > 0 ? "\n" : "", id);
}

static void dispatch(char **field, size_t *bytes, int count)
{
	const char *tag = field[0], *operation = count > 1 ? field[1] : "";
	char number[32];
	failure[0] = '\0';
	if (strlen(tag) >= 32) {
		reply("", "fatal", "a tag is too long");
	} else if (strcmp(operation, "list") == 0) {
		listing[0] = '\0';
		cgroups_list(list_one);
		disk_list(list_one);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "reap") == 0) {
		snprintf(number, sizeof number, "%d", sandbox_reap_leftovers());
		reply(tag, failure[0] == '\0' ? "ok" : "error", failure[0] == '\0' ? number : failure);
	} else if (count < 3 || !valid_id(field[2])) {
		reply(tag, "error", "the request has no valid id");
	} else if (strcmp(operation, "create") == 0 && count == 7) {
		sandbox_create(tag, field[2], (uid_t)strtoul(field[3], NULL, 10), strtoull(field[4], NULL, 10), field[5], field[6],
			bytes[6]);
	} else if (strcmp(operation, "destroy") == 0) {
		sandbox_destroy(tag, field[2]);
	} else if (strcmp(operation, "used") == 0) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)disk_used(field[2]));
		reply(tag, "ok", number);
	} else {
		reply(tag, "error", "the request is not known");
	}
	failure[0] = '\0';
}

/* Takes whole requests off the buffer. False when the peer broke the framing. */
static bool take_requests(char *buffer, size_t *have)
{
	size_t at = 0;
	while (*have - at >= 4) {
		uint32_t length;
		memcpy(&length, buffer + at, 4);
		if (length == 0 || length > MAX_REQUEST_BYTES)
			return false;
		if (*have - at - 4 < length)
			break;
		char *message = buffer + at + 4, *field[MAX_FIELDS];
		size_t bytes[MAX_FIELDS];
		int count = 0;
		if (message[length - 1] != '\0')
			return false;
		for (size_t i = 0; i < length && count < MAX_FIELDS; count++) {
			field[count] = message + i;
			bytes[count] = strlen(message + i);
			i += bytes[count] + 1;
		}
		dispatch(field, bytes, count);
		at += 4 + length;
	}
	memmove(buffer, buffer + at, *have - at);
	*have -= at;
	return true;
}

static void reap_children(int signals)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;
	while (read(signals, &info, sizeof info) == sizeof info)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		sandbox_reaped(pid, status);
}

static void loop(int signals)
{
	static struct pollfd polled[MAX_SANDBOXES + 2];
	static int index[MAX_SANDBOXES + 2];
	char *buffer = malloc(MAX_REQUEST_BYTES + 4);
	size_t have = 0;
	bool open = buffer != NULL;
	/* When the peer is gone every sandbox ends with it; we go when the last one is released. */
	while (open || sandbox_high_water() > 0) {
		int count = 0;
		/* Nothing can be made any more, and what runs cannot write: the next launcher makes the disk anew. */
		if (open && sandbox_failed && disk_is_lost()) {
			reply("", "fatal", "the disk of the sandboxes is read-only after a failed write: the kernel's log says why");
			open = false;
			sandbox_end_all();
			continue;
		}
		sandbox_failed = false;
		polled[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
		polled[count++] = (struct pollfd){ .fd = open ? STDIN_FILENO : -1, .events = POLLIN };
		for (int i = 0; i < sandbox_high_water(); i++) {
			if (sandbox_ready_fd(i) < 0)
				continue;
			index[count] = i;
			polled[count++] = (struct pollfd){ .fd = sandbox_ready_fd(i), .events = POLLIN };
		}
		int events = poll(polled, (nfds_t)count, sandbox_patience_ms());
		sandbox_expire();
		if (events <= 0)
			continue;
		for (int i = 2; i < count; i++)
			if (polled[i].revents != 0)
				sandbox_ready(index[i]);
		if (polled[0].revents != 0)
			reap_children(signals);
		if (polled[1].revents != 0) {
			ssize_t got = read(STDIN_FILENO, buffer + have, MAX_REQUEST_BYTES + 4 - have);
			if (got > 0)
				have += (size_t)got;
			if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN) || !take_requests(buffer, &have)) {
				open = false;
				sandbox_end_all();
			}
		}
	}
	free(buffer);
}

static void usage(void)
{
	static const char text[] = "usage: launcher --directory DIR --oci BINARY --cgroup PATH --hierarchy DIR ... "
		"[--hide MOUNT] [--disk-bytes N]\n";
	if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
		_exit(3);
	_exit(2);
}

int main(int argc, char **argv)
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
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	/* A terminal's Ctrl-C is for the node to handle: it ends us by closing our standard input. */
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	fcntl(STDIN_FILENO, F_SETFD, FD_CLOEXEC);
	fcntl(STDOUT_FILENO, F_SETFD, FD_CLOEXEC);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_DUMPABLE, 0);
	umask(022);
	if (signals < 0 || mounts_open() != 0 || disk_open() != 0) {
		reply("", "fatal", failure);
		return 1;
	}
	reply("", "open", "");
	loop(signals);
	cgroups_close();
	return 0;
}
