#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

/* Kills what is in the cgroup, children made meanwhile included. `cgroup.kill` (cgroups v2) does it in one write. */
void cgroups_kill(const char *id)
{
	for (int i = 0; i < settings.hierarchy_count; i++) {
		char path[PATH_MAX];
		path_of(path, sizeof path, i, id, "/cgroup.kill");
		if (access(path, W_OK) == 0)
			write_file(path, "1", 1);
		failure[0] = '\0';
		path_of(path, sizeof path, i, id, "/freezer.state");
		if (access(path, W_OK) == 0)
			write_file(path, "THAWED", 6);
		failure[0] = '\0';
		path_of(path, sizeof path, i, id, "/cgroup.procs");
		char pids[65536];
		if (read_file(path, pids, sizeof pids) <= 0)
			continue;
		for (char *rest = pids, *line; (line = strsep(&rest, "\n")) != NULL;) {
			pid_t pid = (pid_t)atoi(line);
			if (pid > 1)
				kill(pid, SIGKILL);
		}
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

int cgroups_remove(const char *id)
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
