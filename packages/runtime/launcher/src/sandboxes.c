/* The life of a sandbox on the host's side: layer, root filesystem, OCI runtime, agent ready; then its end. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long the OCI runtime and the agent together may take. A sandbox that is not ready by then is given up. */
#define START_TIMEOUT_MS 30000
/* How long the OCI runtime may go on for a sandbox that nobody wants any more. */
#define ABORT_TIMEOUT_MS 2000

struct sandbox {
	char id[ID_BYTES];
	char create_tag[32];  /* who waits for the creation; empty when answered */
	char destroy_tag[32]; /* who waits for the removal */
	struct wanted *wanted; /* until its processes are started */
	pid_t copier;         /* makes its layer of a seal's */
	pid_t starter;        /* the OCI runtime, or CRIU, while it runs */
	pid_t init;           /* PID 1 of the sandbox as we see it; 0 before and after */
	pid_t syncer;         /* writes out the layer that stays, when all else is released */
	uid_t base;
	char layer[ID_BYTES]; /* empty: it is not kept */
	struct held *held;    /* volumes and generations of caches that it has mounted */
	int held_count;
	bool restoring;       /* the starter is CRIU */
	int ready_fd;         /* the agent writes a byte when it listens; -1 when that is settled */
	int64_t deadline_ms;  /* of the creation, or of its abort; 0 when it is over, or was missed */
	bool destroying;
	bool lost;            /* not all of it could be released */
	unsigned oom_kills;
	char reason[1024];    /* why the creation failed; what follows comes later, when others may have failed too */
};

static struct sandbox *sandboxes[MAX_SANDBOXES];
static int high_water;
bool sandbox_failed;

int sandbox_high_water(void) { return high_water; }
int sandbox_ready_fd(int index) { return sandboxes[index] == NULL ? -1 : sandboxes[index]->ready_fd; }

static struct sandbox *find(const char *id)
{
	for (int i = 0; i < high_water; i++)
		if (sandboxes[i] != NULL && strcmp(sandboxes[i]->id, id) == 0)
			return sandboxes[i];
	return NULL;
}

static void run_path(char *path, size_t bytes, const char *id, const char *file)
{
	snprintf(path, bytes, "%s/%s%s", RUN, id, file);
}

void wanted_free(struct wanted *wanted)
{
	free(wanted->text);
	free(wanted->config);
	free(wanted);
}

static void forget_wanted(struct sandbox *box)
{
	if (box->wanted != NULL)
		wanted_free(box->wanted);
	box->wanted = NULL;
}

static void forget(struct sandbox *box)
{
	for (int i = 0; i < high_water; i++)
		if (sandboxes[i] == box)
			sandboxes[i] = NULL;
	while (high_water > 0 && sandboxes[high_water - 1] == NULL)
		high_water--;
	forget_wanted(box);
	free(box->held);
	free(box);
}

/* Releases all that the host holds for a sandbox, however far its creation came, but for a layer that stays. Goes on past
 * errors. */
static int release(const struct sandbox *box)
{
	const char *id = box->id;
	char path[PATH_MAX];
	int result = 0;
	mounts_release(id);
	result |= cgroups_end(id);
	if (box->layer[0] == '\0')
		result |= disk_remove(id);
	run_path(path, sizeof path, id, "");
	result |= remove_tree(path);
	snprintf(path, sizeof path, "%s/%s", OCI_STATE, id);
	result |= remove_tree(path);
	if (settings.hide != NULL) {
		snprintf(path, sizeof path, "%s%s/%s", settings.hide, settings.cgroup, id);
		result |= remove_tree(path);
	}
	return result;
}

static void keep_reason(struct sandbox *box)
{
	if (box->reason[0] == '\0')
		snprintf(box->reason, sizeof box->reason, "%.*s", (int)sizeof box->reason - 1, failure);
	failure[0] = '\0';
}

/* Nothing is left of it: whoever waits is told. */
static void conclude(struct sandbox *box)
{
	char oom_kills[16];
	snprintf(oom_kills, sizeof oom_kills, "%u", box->oom_kills);
	sandbox_failed |= box->create_tag[0] != '\0' || box->lost;
	if (box->create_tag[0] != '\0')
		reply(box->create_tag, "error", box->reason[0] != '\0' ? box->reason : "the sandbox was destroyed while it started");
	if (box->destroy_tag[0] != '\0')
		reply(box->destroy_tag, box->lost ? "error" : "ok", box->lost ? box->reason : "");
	else if (box->create_tag[0] == '\0')
		reply_two("", "ended", box->id, oom_kills);
	forget(box);
}

static void finish(struct sandbox *box)
{
	keep_reason(box);
	if (box->ready_fd >= 0)
		close(box->ready_fd);
	box->ready_fd = -1;
	box->destroying = true;
	box->deadline_ms = 0;
	box->oom_kills = cgroups_oom_kills(box->id);
	box->lost = release(box) != 0;
	keep_reason(box);
	if (box->layer[0] != '\0' && (box->syncer = disk_sync_apart()) > 0)
		return;
	box->syncer = 0;
	conclude(box);
}

/* Brings an end about: kills PID 1 if there is one, or releases at once. What follows comes with SIGCHLD. */
static void end(struct sandbox *box)
{
	box->destroying = true;
	keep_reason(box);
	if (box->syncer > 0)
		return;
	if (box->starter > 0 || box->copier > 0) {
		int64_t deadline_ms = now_ms() + ABORT_TIMEOUT_MS;
		if (box->deadline_ms == 0 || box->deadline_ms > deadline_ms)
			box->deadline_ms = deadline_ms;
		return;
	}
	if (box->init > 0) {
		cgroups_thaw(box->id); /* or the kill would wait */
		kill(box->init, SIGKILL); /* with PID 1 goes all of its namespace (pid_namespaces(7)) */
		return;
	}
	finish(box);
}

/* From its layer to its processes: a fresh agent by the OCI runtime, or those of a seal by CRIU. */
static void begin(struct sandbox *box)
{
	const struct wanted *wanted = box->wanted;
	const char *id = box->id;
	char path[PATH_MAX], bundle[PATH_MAX];
	int ready[2] = { -1, -1 };
	run_path(bundle, sizeof bundle, id, "");
	run_path(path, sizeof path, id, "/config.json");
	if (mounts_run(id, wanted->base) != 0 || disk_create(id, wanted->layer, wanted->disk_bytes, wanted->from[0] != '\0') != 0 ||
		mounts_overlay(id, wanted) != 0 || volumes_mount(id, wanted) != 0)
		goto failed;
	if (wanted->memory) {
		box->restoring = true;
		box->starter = criu_restore(id, wanted);
	} else if (write_file(path, wanted->config, strlen(wanted->config)) != 0) {
		goto failed;
	} else if (pipe2(ready, O_CLOEXEC) != 0) {
		fail("pipe");
		goto failed;
	} else {
		box->ready_fd = ready[0];
		box->starter = oci_start(id, ready[1], bundle);
		close(ready[1]);
	}
	if (box->starter > 0) {
		forget_wanted(box);
		return;
	}
	box->starter = 0;
	fail("fork");
failed:
	finish(box);
}

/* The layer is a copy of the seal's, or could not be made. */
static void copied(struct sandbox *box, int status)
{
	box->copier = 0;
	errno = 0;
	if (status != 0)
		fail("the layer could not be made of the seal (status %d): is the disk full?", status);
	if (status != 0 || box->destroying)
		finish(box);
	else
		begin(box);
}

/* Takes `wanted`. */
void sandbox_create(const char *tag, const char *id, struct wanted *wanted)
{
	char bundle[PATH_MAX];
	int slot = 0;
	while (slot < MAX_SANDBOXES && sandboxes[slot] != NULL)
		slot++;
	errno = 0;
	struct sandbox *box = slot == MAX_SANDBOXES || find(id) != NULL ? NULL : calloc(1, sizeof *box);
	if (box == NULL) {
		reply(tag, "error", slot == MAX_SANDBOXES ? "too many sandboxes" : find(id) != NULL ? "the id is in use" : "out of memory");
		wanted_free(wanted);
		return;
	}
	snprintf(box->id, sizeof box->id, "%s", id);
	snprintf(box->create_tag, sizeof box->create_tag, "%s", tag);
	snprintf(box->layer, sizeof box->layer, "%s", wanted->layer);
	box->wanted = wanted;
	box->base = wanted->base;
	if (wanted->held_count > 0 && (box->held = calloc((size_t)wanted->held_count, sizeof *box->held)) != NULL) {
		memcpy(box->held, wanted->held, (size_t)wanted->held_count * sizeof *box->held);
		box->held_count = wanted->held_count;
	}
	box->ready_fd = -1;
	sandboxes[slot] = box;
	if (slot >= high_water)
		high_water = slot + 1;

	box->deadline_ms = now_ms() + START_TIMEOUT_MS;
	run_path(bundle, sizeof bundle, id, "");
	if (make_directory(bundle, 0711) != 0) {
		finish(box);
	} else if (wanted->from[0] == '\0') {
		begin(box);
	} else if ((box->copier = disk_copy_apart(id, wanted->layer, wanted->from)) < 0) {
		box->copier = 0;
		fail("fork");
		finish(box);
	}
}

void sandbox_destroy(const char *tag, const char *id)
{
	struct sandbox *box = find(id);
	if (box == NULL) {
		reply(tag, "ok", "");
		return;
	}
	if (box->destroying && box->destroy_tag[0] != '\0') {
		reply(tag, "error", "the sandbox is being destroyed already");
		return;
	}
	snprintf(box->destroy_tag, sizeof box->destroy_tag, "%s", tag);
	end(box);
}

/* The agent listens (a byte), or ended before it did (end of file). */
void sandbox_ready(int index)
{
	struct sandbox *box = sandboxes[index];
	char byte;
	if (box == NULL || box->ready_fd < 0)
		return;
	ssize_t got = read(box->ready_fd, &byte, 1);
	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	close(box->ready_fd);
	box->ready_fd = -1;
	if (got == 1 && !box->destroying) {
		reply(box->create_tag, "ok", "");
		box->create_tag[0] = '\0';
		box->deadline_ms = 0;
		return;
	}
	/* Why comes with the exit of the OCI runtime; when that has been, PID 1 is gone or going. */
	if (box->starter == 0 && !box->destroying) {
		errno = 0;
		fail("the agent ended before it was ready");
		end(box);
	}
}

static void late(const char *what)
{
	errno = 0;
	fail("%s was not ready after %d ms", what, START_TIMEOUT_MS);
}

static void restore_log(const char *id)
{
	char path[PATH_MAX];
	run_path(path, sizeof path, id, "/log");
	criu_words(path);
}

static void started(struct sandbox *box, int status)
{
	char path[PATH_MAX], text[32];
	box->starter = 0;
	run_path(path, sizeof path, box->id, "/pid");
	if (read_file(path, text, sizeof text) > 0)
		box->init = (pid_t)atoi(text);
	/* A pid is surely its own only while it is a child of ours that has not been waited for. */
	if (box->init > 0 && waitpid(box->init, NULL, WNOHANG) != 0)
		box->init = 0;
	mounts_release_root(box->id);
	bool restored = box->ready_fd < 0 && box->restoring;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		if (restored)
			restore_log(box->id);
		else if (box->deadline_ms == 0 && box->create_tag[0] != '\0')
			late(settings.oci_binary);
		else
			oci_words(box->id);
		errno = 0;
		fail("%s ended with status %d", restored ? "CRIU" : settings.oci_binary, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
		end(box);
		return;
	}
	if (box->init == 0 || box->destroying) {
		end(box);
	} else if (restored) {
		/* CRIU ends when the processes go on; the agent listens since before they were saved. */
		reply(box->create_tag, "ok", "");
		box->create_tag[0] = '\0';
		box->deadline_ms = 0;
	} else if (box->create_tag[0] != '\0' && box->ready_fd < 0) {
		errno = 0;
		fail("the agent ended before it was ready");
		end(box);
	}
}

void sandbox_reaped(pid_t pid, int status)
{
	for (int i = 0; i < high_water; i++) {
		struct sandbox *box = sandboxes[i];
		if (box == NULL)
			continue;
		if (box->starter == pid) {
			started(box, status);
			return;
		}
		if (box->copier == pid) {
			copied(box, status);
			return;
		}
		if (box->init == pid) {
			box->init = 0;
			finish(box);
			return;
		}
		if (box->syncer == pid) {
			box->syncer = 0;
			conclude(box);
			return;
		}
	}
}

/* Milliseconds to the first creation that is late, or -1. */
int sandbox_patience_ms(void)
{
	int64_t first = 0, now;
	for (int i = 0; i < high_water; i++)
		if (sandboxes[i] != NULL && sandboxes[i]->deadline_ms > 0 && (first == 0 || sandboxes[i]->deadline_ms < first))
			first = sandboxes[i]->deadline_ms;
	if (first == 0)
		return -1;
	now = now_ms();
	return first > now ? (int)(first - now) : 0;
}

/* Gives up the creations that are late. */
void sandbox_expire(void)
{
	int64_t now = now_ms();
	for (int i = high_water - 1; i >= 0; i--) {
		struct sandbox *box = i < high_water ? sandboxes[i] : NULL;
		if (box == NULL || box->deadline_ms == 0 || box->deadline_ms > now)
			continue;
		box->deadline_ms = 0;
		if (box->copier > 0) {
			kill(box->copier, SIGKILL);
		} else if (box->starter > 0) {
			kill(-box->starter, SIGKILL);
		} else if (!box->destroying) {
			late("the agent");
			end(box);
		}
	}
}

/* Those that nobody will ask for any more: all but the kept ones whose node was told that they are there. */
void sandbox_end_all(bool kept_too)
{
	for (int i = high_water - 1; i >= 0; i--) {
		struct sandbox *box = i < high_water ? sandboxes[i] : NULL;
		if (box != NULL && !box->destroying && (kept_too || box->layer[0] == '\0' || box->create_tag[0] != '\0'))
			end(box);
	}
}

static bool is_kept(const struct sandbox *box)
{
	return box != NULL && box->layer[0] != '\0' && !box->destroying && box->create_tag[0] == '\0';
}

int sandbox_kept(void)
{
	int count = 0;
	for (int i = 0; i < high_water; i++)
		count += is_kept(sandboxes[i]);
	return count;
}

int sandbox_leaving(void)
{
	int count = 0;
	for (int i = 0; i < high_water; i++)
		count += sandboxes[i] != NULL && !is_kept(sandboxes[i]);
	return count;
}

/* PID 1 of a sandbox that runs, or 0. */
pid_t sandbox_init(const char *id)
{
	struct sandbox *box = find(id);
	int status;
	if (box == NULL || box->destroying || box->create_tag[0] != '\0')
		return 0;
	/* The agent may say that it listens before the OCI runtime has ended, which it is about to. */
	if (box->starter > 0 && waitpid(box->starter, &status, 0) == box->starter)
		started(box, status);
	return box->init;
}

bool sandbox_runs(const char *id) { return find(id) != NULL; }

const char *sandbox_layer_of(const char *id)
{
	const struct sandbox *box = find(id);
	return box == NULL ? "" : box->layer;
}

bool sandbox_on_layer(const char *layer)
{
	for (int i = 0; i < high_water; i++)
		if (sandboxes[i] != NULL && strcmp(sandboxes[i]->layer, layer) == 0)
			return true;
	return false;
}

/* Whether a sandbox has it mounted, or is about to. */
bool sandbox_holds(enum kind kind, const char *name)
{
	for (int i = 0; i < high_water; i++)
		for (int h = 0; sandboxes[i] != NULL && h < sandboxes[i]->held_count; h++)
			if (sandboxes[i]->held[h].kind == kind && strcmp(sandboxes[i]->held[h].name, name) == 0)
				return true;
	return false;
}

void sandbox_list_kept(void (*each)(const char *id, uid_t base, const char *layer))
{
	for (int i = 0; i < high_water; i++)
		if (is_kept(sandboxes[i]))
			each(sandboxes[i]->id, sandboxes[i]->base, sandboxes[i]->layer);
}
