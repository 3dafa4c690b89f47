/* The root filesystem of a sandbox: an overlay whose layers are seen through id-mapped mounts (mount_setattr(2)), so
 * that files are stored with the ids the image gave them while the sandbox runs under host ids of its own. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* glibc's <sys/mount.h> and <linux/mount.h> cannot be included together before glibc 2.37. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#define MNT_DETACH 2

#define UID_RANGE 65536
#define MAX_LAYERS 64
#define MAX_CACHED_USERNS 1024

static struct { uid_t base; int fd; } cached[MAX_CACHED_USERNS];
static int cached_count;

int mounts_open(void)
{
	if (unshare(CLONE_NEWNS) != 0)
		return fail("unshare the mount namespace");
	/* What the host unmounts in all the time that we live goes here too; what we mount goes nowhere. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
		return fail("make mounts our own");
	/* OCI runtimes make their folders there all the same: in a tmpfs of ours, not in the host's. */
	if (settings.hide != NULL && umount2(settings.hide, MNT_DETACH) != 0 && errno != EINVAL)
		return fail("unmount %s", settings.hide);
	if (settings.hide != NULL && mount("tmpfs", settings.hide, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16m") != 0)
		return fail("mount tmpfs on %s", settings.hide);
	/* A sandbox's root, who is nobody on the host, must be able to reach its root filesystem by its path: so it lies
	 * here, in a tmpfs that only this namespace sees, and not in the node's directory, which is closed to others. */
	if (mount("tmpfs", RUN, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=711,size=256m") != 0)
		return fail("mount tmpfs on %s", RUN);
	return 0;
}

static int child_waits(void *launcher)
{
	/* It has all that we have, the lock and the node's connection too: it must not outlive us. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == *(const pid_t *)launcher)
		pause();
	return 0;
}

/* A user namespace with the sandbox's mapping, to make id-mapped mounts from. A range is used again and again. */
static int user_namespace(uid_t base)
{
	for (int i = 0; i < cached_count; i++)
		if (cached[i].base == base)
			return cached[i].fd;
	static char stack[4096] __attribute__((aligned(16)));
	pid_t launcher = getpid(), pid = clone(child_waits, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, &launcher);
	if (pid < 0)
		return fail("clone a user namespace");
	char path[64], map[96];
	/* Overlayfs makes its working files as whoever mounts, root of the host: that id, too, needs a place on disk. */
	int bytes = snprintf(map, sizeof map, "0 %u %u\n%u 0 1\n", base, UID_RANGE, UID_RANGE);
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	int result = write_file(path, map, (size_t)bytes);
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	if (result == 0)
		result = write_file(path, map, (size_t)bytes);
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	int fd = result == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		fail("open %s", path);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (fd >= 0) {
		int slot = cached_count < MAX_CACHED_USERNS ? cached_count++ : (int)(base / UID_RANGE % MAX_CACHED_USERNS);
		if (cached[slot].base != 0)
			close(cached[slot].fd);
		cached[slot].base = base;
		cached[slot].fd = fd;
	}
	return fd;
}

/* Mounts `source` again at `target`, with ids mapped. */
static int map_mount_by(const char *source, const char *target, int namespace)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return fail("open_tree %s", source);
	struct mount_attr attributes = {
		.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
		.userns_fd = (uint64_t)namespace,
	};
	int result = 0;
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
		result = fail(errno == EINVAL ? "map the ids of %s, whose file system this kernel cannot do it for (tmpfs: since 6.3)" :
			"map the ids of %s", source);
	else if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) != 0)
		result = fail("move_mount to %s", target);
	close(tree);
	return result;
}

/* The same for who has the first host id only. */
int map_mount(const char *source, const char *target, uid_t base)
{
	int namespace = user_namespace(base);
	return namespace < 0 ? -1 : map_mount_by(source, target, namespace);
}

int mounts_overlay(const char *id, const struct wanted *wanted)
{
	int namespace = user_namespace(wanted->base);
	if (namespace < 0)
		return -1;
	char run[PATH_MAX], target[PATH_MAX + 32], source[PATH_MAX + 32];
	char options[8192], list[MAX_LOWERS_BYTES];
	size_t used = 0, listed = 0;
	int layers = 0, result = 0;
	struct statvfs space;
	strcpy(list, wanted->lowers);
	snprintf(run, sizeof run, "%s/%s", RUN, id);
	/* Layers number their inodes alike: without `xino` two directories could be one to whoever looks for loops. A layer that
	 * stays must mean its fsync(2), and may find other lower layers under it: a newer agent's. */
	used = (size_t)snprintf(options, sizeof options, "xino=on,%s,lowerdir=", wanted->layer[0] == '\0' ? "volatile" : "index=off");
	for (char *rest = list, *lower; result == 0 && (lower = strsep(&rest, "\n")) != NULL; layers++) {
		snprintf(target, sizeof target, "%s/l%d", run, layers);
		if (layers >= MAX_LAYERS || make_directory(target, 0700) != 0 || map_mount_by(lower, target, namespace) != 0)
			result = fail("layer %d", layers);
		else
			used += (size_t)snprintf(options + used, sizeof options - used, "%s%s", layers > 0 ? ":" : "", target);
		if (used >= sizeof options)
			result = fail("too many layers");
	}
	listed = (size_t)layers;
	if (result == 0) {
		disk_path(source, sizeof source, id, wanted->layer);
		snprintf(target, sizeof target, "%s/w", run);
		if (make_directory(target, 0700) != 0 || map_mount_by(source, target, namespace) != 0)
			result = -1;
		else if (used + 2 * strlen(target) + 40 >= sizeof options)
			result = fail("too many layers");
		else
			snprintf(options + used, sizeof options - used, ",upperdir=%s/upper,workdir=%s/work", target, target);
	}
	if (result == 0) {
		snprintf(target, sizeof target, "%s/rootfs", run);
		if (make_directory(target, 0711) != 0)
			result = -1;
		/* EIO: a write to the disk failed since it was last synced, say because the host's was full. Volatile overlays
		 * are refused until someone has heard of it, which is us. */
		else if (mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options) != 0 &&
			(errno != EIO || (disk_sync(), mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options)) != 0))
			result = fail("mount overlay (%s)", options);
		/* Overlayfs mounts read-only, with a word to the kernel's log, where it cannot write its working files. */
		else if (statvfs(target, &space) != 0 || (space.f_flag & ST_RDONLY) != 0)
			result = fail("the overlay is read-only: the kernel's log says why");
	}
	/* The overlay holds clones of its layers' mounts; ours have served. */
	for (size_t i = 0; i < listed; i++) {
		snprintf(target, sizeof target, "%s/l%zu", run, i);
		umount2(target, MNT_DETACH);
	}
	snprintf(target, sizeof target, "%s/w", run);
	umount2(target, MNT_DETACH);
	return result;
}

/* The folder of the agent's sockets, which the sandbox sees as it is, its root may write and all its users may pass: a tmpfs of its own with room
 * for little more than a socket. In the layer it would be a folder of btrfs without overlayfs before it, where anyone may
 * make a subvolume (btrfs-subvolume(8)), which has no quota and keeps the layer from being destroyed. */
int mounts_run(const char *id, uid_t base)
{
	char path[PATH_MAX], options[96];
	snprintf(path, sizeof path, "%s/%s/run", RUN, id);
	snprintf(options, sizeof options, "mode=711,size=64k,nr_inodes=16,uid=%u,gid=%u", base, base);
	if (make_directory(path, 0700) != 0)
		return -1;
	if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) != 0)
		return fail("mount tmpfs on %s", path);
	return 0;
}

/* Drops our own view of the root filesystem: once the sandbox runs, its mount namespace is what keeps it. */
void mounts_release_root(const char *id)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s/rootfs", RUN, id);
	umount2(path, MNT_DETACH);
	volumes_unmount(id);
}

/* Drops all that is mounted for an id. */
void mounts_release(const char *id)
{
	char path[PATH_MAX];
	mounts_release_root(id);
	snprintf(path, sizeof path, "%s/%s/run", RUN, id);
	umount2(path, MNT_DETACH);
}
