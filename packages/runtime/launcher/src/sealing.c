/* Seals of running sandboxes, while they are made. The node has frozen the sandbox; its layer is snapshotted and its memory is
 * dumped at the same time, each by a process of its own, and who asked is told when both have ended. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define MAX_SEALINGS 64
/* Exit codes from here on say that CRIU itself did not run. */
#define NOT_STARTED 126
/* How long a dump or a snapshot may take: the sandbox stands still for it. */
#define SEALING_TIMEOUT_MS 60000

static struct sealing {
	char tag[32]; /* empty: the place is free */
	char seal[ID_BYTES]; /* empty: the disk is written out, and no more */
	pid_t copier, dumper;
	int64_t deadline_ms;
	bool refused; /* its memory could not be saved: that is no fault of ours */
	char reason[1024];
} sealings[MAX_SEALINGS];

static void keep_reason(struct sealing *one)
{
	if (one->reason[0] == '\0')
		snprintf(one->reason, sizeof one->reason, "%.*s", (int)sizeof one->reason - 1, failure);
	failure[0] = '\0';
}

static void conclude(struct sealing *one)
{
	if (one->copier > 0 || one->dumper > 0)
		return;
	if (one->reason[0] != '\0' && one->seal[0] != '\0') {
		seal_remove(one->seal);
		failure[0] = '\0';
	}
	reply(one->tag, one->reason[0] == '\0' ? "ok" : one->refused ? "refused" : "error", one->reason);
	one->tag[0] = '\0';
}

static struct sealing *take(const char *tag)
{
	for (struct sealing *one = sealings; one < sealings + MAX_SEALINGS; one++) {
		if (one->tag[0] != '\0')
			continue;
		memset(one, 0, sizeof *one);
		snprintf(one->tag, sizeof one->tag, "%s", tag);
		one->deadline_ms = now_ms() + SEALING_TIMEOUT_MS;
		return one;
	}
	reply(tag, "error", "too many seals at once");
	return NULL;
}

/* What was written to the disk until now is on stable storage when it is answered. */
void sealing_sync(const char *tag)
{
	struct sealing *one = take(tag);
	if (one == NULL)
		return;
	one->copier = disk_sync_apart();
	if (one->copier < 0) {
		fail("fork");
		keep_reason(one);
		one->copier = 0;
	}
	conclude(one);
}

void sealing_begin(const char *tag, const char *id, const char *seal, bool memory, char *places)
{
	pid_t init = sandbox_init(id);
	if (init == 0) {
		reply(tag, "error", "the sandbox does not run");
		return;
	}
	if (seal_begin(seal) != 0) {
		reply(tag, "error", failure);
		return;
	}
	struct sealing *one = take(tag);
	if (one == NULL) {
		seal_remove(seal);
		return;
	}
	snprintf(one->seal, sizeof one->seal, "%s", seal);
	one->copier = disk_seal_apart(id, sandbox_layer_of(id), seal);
	one->dumper = memory ? criu_dump(id, init, seal, places) : 0;
	if (one->copier < 0 || one->dumper < 0) {
		fail("fork");
		keep_reason(one);
		one->copier = one->copier < 0 ? 0 : one->copier;
		one->dumper = one->dumper < 0 ? 0 : one->dumper;
	}
	conclude(one);
}

bool sealing_reaped(pid_t pid, int status)
{
	for (struct sealing *one = sealings; one < sealings + MAX_SEALINGS; one++) {
		if (one->tag[0] == '\0' || (one->copier != pid && one->dumper != pid))
			continue;
		bool dump = one->dumper == pid;
		*(dump ? &one->dumper : &one->copier) = 0;
		errno = 0;
		if (status != 0 && dump) {
			char log[PATH_MAX];
			snprintf(log, sizeof log, "%s/.%s/memory/dump.log", SEALS, one->seal);
			one->refused = one->reason[0] == '\0' && WIFEXITED(status) && WEXITSTATUS(status) < NOT_STARTED;
			criu_words(log);
			fail("CRIU ended with status %d", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
			keep_reason(one);
		} else if (status != 0) {
			fail("%s (status %d): is the disk full?", one->seal[0] != '\0' ? "the layer could not be snapshotted" :
				"the disk could not be written out", status);
			keep_reason(one);
		}
		conclude(one);
		return true;
	}
	return false;
}

/* Whether one is being made. CRIU must not be killed before it has left the processes. */
bool sealing_busy(void)
{
	for (const struct sealing *one = sealings; one < sealings + MAX_SEALINGS; one++)
		if (one->tag[0] != '\0')
			return true;
	return false;
}

/* Milliseconds to the first that is late, or -1. */
int sealing_patience_ms(void)
{
	int64_t first = 0, now = now_ms();
	for (struct sealing *one = sealings; one < sealings + MAX_SEALINGS; one++)
		if (one->tag[0] != '\0' && one->deadline_ms > 0 && (first == 0 || one->deadline_ms < first))
			first = one->deadline_ms;
	return first == 0 ? -1 : first > now ? (int)(first - now) : 0;
}

/* Gives up those that are late; their ends are told like others. */
void sealing_expire(void)
{
	for (struct sealing *one = sealings; one < sealings + MAX_SEALINGS; one++) {
		if (one->tag[0] == '\0' || one->deadline_ms == 0 || one->deadline_ms > now_ms())
			continue;
		one->deadline_ms = 0;
		errno = 0;
		fail("it was not done after %d ms", SEALING_TIMEOUT_MS);
		keep_reason(one);
		if (one->dumper > 0)
			kill(-one->dumper, SIGKILL);
		if (one->copier > 0)
			kill(one->copier, SIGKILL);
	}
}
