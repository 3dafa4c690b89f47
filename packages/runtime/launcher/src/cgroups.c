#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define END_TRIES_MAX 500

static void path_of(char *path, size_t bytes, int hierarchy, const char *id, const char *file)
{
	snprintf(path, bytes, "%s%s/%s%s", settings.hierarchies[hierarchy], settings.cgroup, id, file);
}

int cgroups_list(void (*each)(const char *id))
{
	for (int i = 0; i < settings.hierarchy_count; i++) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "%s%s", settings.hierarchies[i], settings.cgroup);
		DIR *directory = opendir(path);
		if (directory == NULL)
			continue;
		struct dirent *entry;
		while ((entry = readdir(directory)) != NULL)
			if (entry->d_type == DT_DIR && valid_id(entry->d_name))
				each(entry->d_name);
		closedir(directory);
	}
	return 0;
}

static void write_if_there(int hierarchy, const char *id, const char *file, const char *word)
{
	char path[PATH_MAX];
	path_of(path, sizeof path, hierarchy, id, file);
	if (access(path, W_OK) == 0)
		write_file(path, word, strlen(word));
	failure[0] = '\0';
}

/* Lets a frozen cgroup run: cgroups v2 and v1. */
void cgroups_thaw(const char *id)
{
	for (int i = 0; i < settings.hierarchy_count; i++) {
		write_if_there(i, id, "/cgroup.freeze", "0");
		write_if_there(i, id, "/freezer.state", "THAWED");
	}
}

/* Kills a process if it still is in the cgroup: since it was listed its pid may have become another's. */
static void kill_member(pid_t pid, const char *id)
{
	char path[64], group[PATH_MAX], text[8192];
	int process = (int)syscall(SYS_pidfd_open, pid, 0);
	if (process < 0)
		return;
	snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
	size_t length = (size_t)snprintf(group, sizeof group, ":%s/%s", settings.cgroup, id);
	if (read_file(path, text, sizeof text) > 0)
		for (char *at = text; (at = strstr(at, group)) != NULL; at += length)
			if (at[length] == '\n' || at[length] == '/') {
				syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
				break;
			}
	close(process);
}

/* Kills what is in the cgroup. `cgroup.kill` (cgroups v2) reaches children made meanwhile; else it takes another try. */
void cgroups_kill(const char *id)
{
	cgroups_thaw(id);
	for (int i = 0; i < settings.hierarchy_count; i++) {
		char path[PATH_MAX], pids[65536];
		write_if_there(i, id, "/cgroup.kill", "1");
		path_of(path, sizeof path, i, id, "/cgroup.procs");
		if (read_file(path, pids, sizeof pids) <= 0)
			continue;
		for (char *rest = pids, *line; (line = strsep(&rest, "\n")) != NULL;)
			if (atoi(line) > 1)
				kill_member((pid_t)atoi(line), id);
	}
}

/* How many processes the kernel killed here for want of memory: memory.oom_control (v1) or memory.events (v2). */
unsigned cgroups_oom_kills(const char *id)
{
	static const char *const files[] = { "/memory.oom_control", "/memory.events" };
	for (int i = 0; i < settings.hierarchy_count; i++) {
		for (int f = 0; f < 2; f++) {
			char path[PATH_MAX], text[1024];
			path_of(path, sizeof path, i, id, files[f]);
			char *found = read_file(path, text, sizeof text) > 0 ? strstr(text, "oom_kill ") : NULL;
			if (found != NULL)
				return (unsigned)atoi(found + 9);
		}
	}
	return 0;
}

/* Removes a cgroup and what the sandbox made below it. */
static int remove_one(const char *path, int depth)
{
	if (rmdir(path) == 0 || errno == ENOENT)
		return 0;
	if (errno != EBUSY && errno != ENOTEMPTY)
		return fail("rmdir %s", path);
	DIR *directory = depth < 16 ? opendir(path) : NULL;
	if (directory != NULL) {
		struct dirent *entry;
		while ((entry = readdir(directory)) != NULL) {
			if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
				continue;
			char below[PATH_MAX];
			if ((size_t)snprintf(below, sizeof below, "%s/%s", path, entry->d_name) < sizeof below)
				remove_one(below, depth + 1);
		}
		closedir(directory);
	}
	return rmdir(path) == 0 || errno == ENOENT ? 0 : fail("rmdir %s", path);
}

static int remove_all(const char *id)
{
	int result = 0;
	for (int i = 0; i < settings.hierarchy_count; i++) {
		char path[PATH_MAX];
		path_of(path, sizeof path, i, id, "");
		if (remove_one(path, 0) != 0)
			result = -1;
	}
	return result;
}

/* Removes the cgroups of a sandbox. What still is in them is killed first; the kernel has END_TRIES_MAX * 2 ms for it. */
int cgroups_end(const char *id)
{
	char reason[sizeof failure];
	memcpy(reason, failure, sizeof reason);
	for (int tries = 0; tries < END_TRIES_MAX; tries++) {
		if (remove_all(id) == 0)
			return 0;
		memcpy(failure, reason, sizeof reason);
		cgroups_kill(id);
		memcpy(failure, reason, sizeof reason);
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	return remove_all(id);
}

/* Removes our folders of the hierarchies, and the folder of all nodes when ours was the last: what is not empty stays. */
void cgroups_close(void)
{
	for (int i = 0; i < settings.hierarchy_count; i++) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "%s%s", settings.hierarchies[i], settings.cgroup);
		rmdir(path);
		*strrchr(path, '/') = '\0';
		if (strlen(path) > strlen(settings.hierarchies[i]))
			rmdir(path);
	}
}
