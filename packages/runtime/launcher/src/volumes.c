/* What several sandboxes share on the disk: volumes, which they write together; generations of dependency caches, which none
 * changes; and for each sandbox the upper layers that its writes to caches go to. All are subvolumes in folders of their
 * own, which stay until the node removes them. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's <sys/mount.h> and <linux/mount.h> cannot be included together before glibc 2.37. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#define MNT_DETACH 2
#define MS_NOSUID 2
#define MS_NODEV 4

static const char *const folders[] = { [VOLUMES] = DISK "/.volumes", [CACHES] = DISK "/.caches", [UPPERS] = DISK "/.uppers" };
static int places[3] = { -1, -1, -1 };

int volumes_open(void)
{
	if (settings.disk_bytes == 0)
		return 0;
	for (int i = 0; i < 3; i++) {
		if (make_directory(folders[i], 0711) != 0)
			return -1;
		places[i] = open(folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (places[i] < 0)
			return fail("open %s", folders[i]);
	}
	return 0;
}

void volumes_close(void)
{
	for (int i = 0; i < 3; i++)
		close(places[i]);
}

/* Makes a subvolume, or sets the quota and the mode of the one that is there. 0 bytes: no quota of its own. */
int volume_create(enum kind kind, const char *name, uint64_t bytes, mode_t mode)
{
	struct btrfs_ioctl_vol_args subvolume = { 0 };
	snprintf(subvolume.name, sizeof subvolume.name, "%s", name);
	if (ioctl(places[kind], BTRFS_IOC_SUBVOL_CREATE, &subvolume) != 0 && errno != EEXIST)
		return fail("create subvolume %s", name);
	int fd = openat(places[kind], name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return fail("open subvolume %s", name);
	int result = mode == 0 || fchmod(fd, mode) == 0 ? 0 : fail("chmod %s", name);
	struct btrfs_ioctl_qgroup_limit_args limit = { .lim = { .flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = bytes } };
	if (result == 0 && bytes > 0 && ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, &limit) != 0)
		result = fail("limit %s", name);
	close(fd);
	return result;
}

/* The next generation of a cache: all that the one before has, sharing its bytes; or nothing. */
int volume_next(const char *name, const char *before)
{
	if (before[0] == '\0')
		return volume_create(CACHES, name, 0, 0755);
	struct btrfs_ioctl_vol_args_v2 snapshot = { .fd = openat(places[CACHES], before, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) };
	if (snapshot.fd < 0)
		return fail("open cache %s", before);
	snprintf(snapshot.name, sizeof snapshot.name, "%s", name);
	int result = ioctl(places[CACHES], BTRFS_IOC_SNAP_CREATE_V2, &snapshot) == 0 ? 0 : fail("snapshot %s", before);
	close((int)snapshot.fd);
	return result;
}

int volume_remove(enum kind kind, const char *name)
{
	return disk_remove_subvolume(places[kind], name);
}

uint64_t volume_used(enum kind kind, const char *name)
{
	return disk_used_subvolume(places[kind], name);
}

int volume_list(enum kind kind, void (*each)(const char *name))
{
	return settings.disk_bytes > 0 ? disk_list_in(folders[kind], each) : 0;
}

static int open_below(int root, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

/* Makes the directories of a place in the sandbox's root filesystem that are not there, each its parent's owner's: OCI
 * runtimes make what is missing as root, and ~/.cargo would be closed to who lives in that home. Links are followed as the
 * sandbox would. What cannot be made is left to the OCI runtime, which says why. */
static void make_place(int root, const char *place)
{
	char path[PATH_MAX];
	struct stat owner;
	int parent = open_below(root, "/");
	snprintf(path, sizeof path, "%s", place);
	for (char *name = path, *end; parent >= 0 && *(name += strspn(name, "/")) != '\0'; name = end) {
		end = name + strcspn(name, "/");
		char rest = *end;
		*end = '\0';
		int next = open_below(root, path);
		if (next < 0 && errno == ENOENT && fstat(parent, &owner) == 0 && mkdirat(parent, name, 0755) == 0) {
			if (fchownat(parent, name, owner.st_uid, owner.st_gid, AT_SYMLINK_NOFOLLOW) == 0)
				next = open_below(root, path);
		}
		*end = rest;
		close(parent);
		parent = next;
	}
	if (parent >= 0)
		close(parent);
}

static void make_places(const char *id, const struct wanted *wanted)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s/rootfs", RUN, id);
	int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; root >= 0 && i < wanted->place_count; i++)
		make_place(root, wanted->places[i]);
	if (root >= 0)
		close(root);
}

/* The folders that a cache's writes go to, in a subvolume for all caches of the sandbox. */
static int make_upper(const char *owner, const char *cache, const struct wanted *wanted)
{
	char path[PATH_MAX];
	if (volume_create(UPPERS, owner, wanted->disk_bytes, 0711) != 0)
		return -1;
	static const char *const parts[] = { "", "/work", "/upper" };
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s/%s%s", folders[UPPERS], owner, cache, parts[i]);
		if (make_directory(path, i == 1 ? 0700 : 0755) != 0)
			return -1;
	}
	/* The cache's own directory, in the sandbox: for all its users, whoever of them runs the tool. */
	return chmod(path, 0777) == 0 ? 0 : fail("chmod %s", path);
}

/* A generation as a lower layer: seen through an overlay of its own, which makes it another file system to the one above.
 * Subvolumes number their inodes alike, and overlayfs tells layers apart by file system only (`xino`): two directories would be
 * one to find(1), rm(1) and all that looks for loops. */
static int mount_generation(const char *name, const char *lower, const char *empty, uid_t base)
{
	char source[PATH_MAX], options[512];
	snprintf(source, sizeof source, "%s/%s", folders[CACHES], name);
	if (make_directory(lower, 0700) != 0 || map_mount(source, lower, base) != 0)
		return -1;
	snprintf(options, sizeof options, "lowerdir=%s:%s", lower, empty);
	return mount("overlay", lower, "overlay", MS_NOSUID | MS_NODEV, options) == 0 ? 0 : fail("mount the generation %s", name);
}

/* An overlay of the cache's generations under an upper layer of the sandbox's own, at `target`. */
static int mount_cache(const char run[sizeof RUN + ID_BYTES], const char *target, const char *owner, const char *cache, const struct held *held,
	int count, const struct wanted *wanted)
{
	char source[PATH_MAX], lower[128], upper[128], empty[128], options[8192];
	int lowers = 0, result = make_upper(owner, cache, wanted);
	size_t used = (size_t)snprintf(options, sizeof options, "xino=on,%s,lowerdir=", wanted->layer[0] == '\0' ? "volatile" : "index=off");
	snprintf(empty, sizeof empty, "%s/empty", run);
	if (result == 0)
		result = make_directory(empty, 0755);
	for (int i = 0; result == 0 && i < count && held[i].kind == CACHES; i++, lowers++) {
		snprintf(lower, sizeof lower, "%s/k%d", run, lowers);
		result = mount_generation(held[i].name, lower, empty, wanted->base);
		used += (size_t)snprintf(options + used, sizeof options - used, "%s:", lower);
	}
	used += (size_t)snprintf(options + used, sizeof options - used, "%s", empty);
	snprintf(source, sizeof source, "%s/%s/%s", folders[UPPERS], owner, cache);
	snprintf(upper, sizeof upper, "%s/ku", run);
	if (result == 0 && (make_directory(upper, 0700) != 0 || map_mount(source, upper, wanted->base) != 0))
		result = -1;
	snprintf(options + used, sizeof options - used, ",upperdir=%s/upper,workdir=%s/work", upper, upper);
	if (result == 0 && mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options) != 0)
		result = fail("mount the cache %s (%s)", cache, options);
	while (lowers-- > 0) {
		snprintf(lower, sizeof lower, "%s/k%d", run, lowers);
		umount2(lower, MNT_DETACH);
		umount2(lower, MNT_DETACH);
	}
	umount2(upper, MNT_DETACH);
	return result;
}

/* Mounts what a sandbox asked for, in the order in which it did, at `v0`, `v1`, … of its bundle: a volume, or a cache with the
 * generations that follow it. */
int volumes_mount(const char *id, const struct wanted *wanted)
{
	const char *owner = wanted->layer[0] != '\0' ? wanted->layer : id;
	char run[sizeof RUN + ID_BYTES], target[PATH_MAX], source[PATH_MAX];
	int at = 0, result = 0;
	snprintf(run, sizeof run, "%s/%s", RUN, id);
	make_places(id, wanted);
	for (int i = 0; result == 0 && i < wanted->held_count; i++) {
		const struct held *held = &wanted->held[i];
		if (held->kind == CACHES)
			continue;
		snprintf(target, sizeof target, "%s/v%d", run, at++);
		if ((result = make_directory(target, 0711)) != 0)
			break;
		snprintf(source, sizeof source, "%s/%s", folders[VOLUMES], held->name);
		result = held->kind == VOLUMES ? map_mount(source, target, wanted->base) :
			mount_cache(run, target, owner, held->name, held + 1, wanted->held_count - i - 1, wanted);
	}
	return result;
}

/* Drops our own view of them: the sandbox's mount namespace is what keeps them. */
void volumes_unmount(const char *id)
{
	char path[PATH_MAX];
	for (int at = 0; at < MAX_HELD; at++) {
		snprintf(path, sizeof path, "%s/%s/v%d", RUN, id, at);
		if (umount2(path, MNT_DETACH) != 0 && errno == ENOENT)
			return;
	}
}
