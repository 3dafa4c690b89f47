/* Writable layers: one btrfs subvolume each, on a sparse image that is attached by a loop device and mounted in our
 * namespace only. A subvolume is its own quota group (btrfs-quota(5)), so a limit costs one ioctl and removal does not
 * walk the tree. Without btrfs each layer is a tmpfs of the asked size. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA
#define BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA 4
#endif

#define QGROUPS_AT_ONCE 16

static int root = -1;
static char qgroups[80];

/* Where sysfs shows the quota groups of the file system at `fd`. */
static void find_qgroups(int fd)
{
	struct btrfs_ioctl_fs_info_args info = { 0 };
	if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) != 0)
		return;
	size_t used = (size_t)snprintf(qgroups, sizeof qgroups, "/sys/fs/btrfs/");
	for (int i = 0; i < 16; i++)
		used += (size_t)snprintf(qgroups + used, sizeof qgroups - used, "%s%02x",
			i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", info.fsid[i]);
	snprintf(qgroups + used, sizeof qgroups - used, "/qgroups");
}

static int run(char *const argv[])
{
	pid_t pid = vfork();
	if (pid < 0)
		return fail("fork");
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		execvp(argv[0], argv);
		_exit(127);
	}
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	errno = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return fail("%s failed with status %d", argv[0], WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	return 0;
}

int disk_open(void)
{
	if (make_directory(DISK, 0711) != 0)
		return -1;
	if (settings.disk_bytes > 0) {
		char image[PATH_MAX], fresh[PATH_MAX + 8];
		snprintf(image, sizeof image, "%s/disk.img", settings.directory);
		snprintf(fresh, sizeof fresh, "%s.new", image);
		unlink(image);
		int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)settings.disk_bytes) != 0)
			return fail("create %s", fresh);
		close(fd);
		if (run((char *const[]){ "mkfs.btrfs", "-q", "-K", "-m", "single", "-d", "single", fresh, NULL }) != 0)
			return -1;
		if (rename(fresh, image) != 0)
			return fail("rename %s", fresh);
		if (run((char *const[]){ "mount", "-n", "-t", "btrfs", "-o",
				"loop,noatime,nosuid,nodev,discard=sync,commit=10", image, DISK, NULL }) != 0)
			return -1;
	}
	root = open(DISK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail("open %s", DISK);
	if (fchmod(root, 0711) != 0)
		return fail("chmod %s", DISK);
	if (settings.disk_bytes > 0) {
		struct btrfs_ioctl_quota_ctl_args quota = { .cmd = BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA };
		if (ioctl(root, BTRFS_IOC_QUOTA_CTL, &quota) != 0) {
			quota.cmd = BTRFS_QUOTA_CTL_ENABLE;
			if (ioctl(root, BTRFS_IOC_QUOTA_CTL, &quota) != 0)
				return fail("enable quotas on %s", DISK);
		}
		find_qgroups(root);
	}
	return 0;
}

static int make_layer(int layer)
{
	if (mkdirat(layer, "upper", 0755) != 0 || mkdirat(layer, "work", 0700) != 0)
		return fail("mkdir in a new layer");
	/* The sandbox's / takes its mode from `upper`. */
	if (fchmodat(layer, "upper", 0755, 0) != 0 || fchmod(layer, 0711) != 0)
		return fail("chmod of a new layer");
	return 0;
}

int disk_create(const char *id, uint64_t bytes)
{
	if (settings.disk_bytes > 0) {
		struct btrfs_ioctl_vol_args subvolume = { 0 };
		snprintf(subvolume.name, sizeof subvolume.name, "%s", id);
		if (ioctl(root, BTRFS_IOC_SUBVOL_CREATE, &subvolume) != 0)
			return fail("create subvolume %s", id);
	} else {
		char path[PATH_MAX], options[96];
		snprintf(path, sizeof path, "%s/%s", DISK, id);
		snprintf(options, sizeof options, "mode=711,size=%llu,nr_inodes=%llu", (unsigned long long)bytes,
			(unsigned long long)(bytes / 4096 + 64));
		if (make_directory(path, 0711) != 0)
			return -1;
		if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0)
			return fail("mount tmpfs for %s", id);
	}
	int layer = openat(root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layer < 0)
		return fail("open layer %s", id);
	int result = make_layer(layer);
	if (result == 0 && settings.disk_bytes > 0) {
		struct btrfs_ioctl_qgroup_limit_args limit = { .qgroupid = 0 };
		limit.lim.flags = BTRFS_QGROUP_LIMIT_MAX_RFER;
		limit.lim.max_rfer = bytes;
		if (ioctl(layer, BTRFS_IOC_QGROUP_LIMIT, &limit) != 0)
			result = fail("limit layer %s", id);
	}
	close(layer);
	return result;
}

void disk_sync(void)
{
	syncfs(root);
}

/* Whether the file system gave up: btrfs is read-only from the first write on that it cannot do without. */
bool disk_is_lost(void)
{
	struct statvfs space;
	return fstatvfs(root, &space) == 0 && (space.f_flag & ST_RDONLY) != 0;
}

/* Quota groups whose subvolumes are destroyed, the oldest first. Newer kernels remove them by themselves, some time later;
 * Linux 6.1 keeps each until someone asks, and those between refuse until nothing is left of the subvolume. */
static uint64_t unwanted[MAX_SANDBOXES];
static int unwanted_first, unwanted_count;

static uint64_t subvolume_of(const char *id)
{
	int layer = openat(root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (layer < 0)
		return 0;
	struct btrfs_ioctl_ino_lookup_args self = { .objectid = BTRFS_FIRST_FREE_OBJECTID };
	uint64_t subvolume = ioctl(layer, BTRFS_IOC_INO_LOOKUP, &self) == 0 ? self.treeid : 0;
	close(layer);
	return subvolume;
}

static void remove_qgroups(uint64_t subvolume)
{
	if (unwanted_count == MAX_SANDBOXES) {
		unwanted_first = (unwanted_first + 1) % MAX_SANDBOXES;
		unwanted_count--;
	}
	unwanted[(unwanted_first + unwanted_count++) % MAX_SANDBOXES] = subvolume;
	for (int tries = 0; tries < QGROUPS_AT_ONCE && unwanted_count > 0; tries++) {
		struct btrfs_ioctl_qgroup_create_args group = { .create = 0, .qgroupid = unwanted[unwanted_first] };
		if (ioctl(root, BTRFS_IOC_QGROUP_CREATE, &group) != 0 && errno == EBUSY)
			return;
		unwanted_first = (unwanted_first + 1) % MAX_SANDBOXES;
		unwanted_count--;
	}
}

int disk_remove(const char *id)
{
	if (settings.disk_bytes == 0) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "%s/%s", DISK, id);
		if (umount2(path, MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
			return fail("unmount %s", path);
		return rmdir(path) == 0 || errno == ENOENT ? 0 : fail("rmdir %s", path);
	}
	struct btrfs_ioctl_vol_args subvolume = { 0 };
	uint64_t number = subvolume_of(id);
	snprintf(subvolume.name, sizeof subvolume.name, "%s", id);
	if (ioctl(root, BTRFS_IOC_SNAP_DESTROY, &subvolume) != 0 && errno != ENOENT)
		return fail("destroy subvolume %s", id);
	if (number != 0)
		remove_qgroups(number);
	return 0;
}

static uint64_t qgroup_figure(uint64_t subvolume, const char *name)
{
	char path[160], text[32];
	snprintf(path, sizeof path, "%s/0_%llu/%s", qgroups, (unsigned long long)subvolume, name);
	return read_file(path, text, sizeof text) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* Bytes in a layer: what its quota group refers to and has reserved for delayed writes, or what its tmpfs holds. 0 where
 * that cannot be told. sysfs has the figures of this moment; the quota tree has those of the last commit. */
uint64_t disk_used(const char *id)
{
	int layer = openat(root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t used = 0;
	if (layer < 0)
		return 0;
	struct btrfs_ioctl_ino_lookup_args self = { .objectid = BTRFS_FIRST_FREE_OBJECTID };
	struct statvfs space;
	if (settings.disk_bytes == 0) {
		if (fstatvfs(layer, &space) == 0)
			used = (space.f_blocks - space.f_bfree) * space.f_frsize;
	} else if (ioctl(layer, BTRFS_IOC_INO_LOOKUP, &self) == 0) {
		used = qgroup_figure(self.treeid, "referenced") + qgroup_figure(self.treeid, "rsv_data");
	}
	close(layer);
	return used;
}

int disk_list(void (*each)(const char *id))
{
	DIR *directory = opendir(DISK);
	if (directory == NULL)
		return fail("open %s", DISK);
	struct dirent *entry;
	while ((entry = readdir(directory)) != NULL)
		if (valid_id(entry->d_name))
			each(entry->d_name);
	closedir(directory);
	return 0;
}
