/* Writable layers: one btrfs subvolume each, on DISK itself for the life of a sandbox, below LAYERS for those that stay. A
 * subvolume is its own quota group (btrfs-quota(5)), so a limit costs one ioctl and removal does not walk the tree. Without
 * btrfs each layer is a tmpfs of the asked size. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QGROUPS_AT_ONCE 16

static int root = -1, layers = -1;
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

static void remove_one(const char *id) { disk_remove(id); }

int disk_open(void)
{
	if (make_directory(DISK, 0711) != 0 || (settings.disk_bytes > 0 && image_open() != 0))
		return -1;
	root = open(DISK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail("open %s", DISK);
	if (fchmod(root, 0711) != 0)
		return fail("chmod %s", DISK);
	if (settings.disk_bytes == 0)
		return 0;
	if (make_directory(LAYERS, 0711) != 0)
		return -1;
	layers = open(LAYERS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return fail("open %s", LAYERS);
	find_qgroups(root);
	if (volumes_open() != 0 || seals_open() != 0)
		return -1;
	/* Of sandboxes that ended with an earlier launcher, and were not kept. */
	return disk_list(remove_one);
}

/* Waits for what was written, and for the kernel to let go of the image where no sandbox holds it. */
void disk_close(void)
{
	volumes_close();
	seals_close();
	close(layers);
	close(root);
	umount2(DISK, 0);
}

void disk_path(char *path, size_t bytes, const char *id, const char *layer)
{
	if (layer[0] != '\0')
		snprintf(path, bytes, "%s/%s", LAYERS, layer);
	else
		snprintf(path, bytes, "%s/%s", DISK, id);
}

/* The folder that a subvolume is in, and its name there. */
static int place_of(const char *id, const char *layer, const char **name)
{
	*name = layer[0] != '\0' ? layer : id;
	return layer[0] != '\0' ? layers : root;
}

static int open_layer(const char *id, const char *layer)
{
	const char *name;
	int place = place_of(id, layer, &name);
	return openat(place, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int make_subvolume(const char *id, const char *layer)
{
	struct btrfs_ioctl_vol_args subvolume = { 0 };
	const char *name;
	int place = place_of(id, layer, &name);
	snprintf(subvolume.name, sizeof subvolume.name, "%s", name);
	if (ioctl(place, BTRFS_IOC_SUBVOL_CREATE, &subvolume) == 0 || (errno == EEXIST && layer[0] != '\0'))
		return 0;
	return fail("create subvolume %s", name);
}

/* A layer that stays may be there already, and what made it may have been killed between any two of these. The sandbox's /
 * takes its mode from `upper`, and may have changed it. */
static int make_layer(int layer)
{
	if (fchmod(layer, 0711) != 0)
		return fail("chmod of a layer");
	if ((mkdirat(layer, "work", 0700) != 0 && errno != EEXIST) || (mkdirat(layer, "upper", 0755) != 0 && errno != EEXIST))
		return fail("mkdir in a layer");
	return 0;
}

/* Overlayfs refuses an upper layer whose working folder says that a volatile overlay had it, which one that continues a seal's
 * may say. */
static int clear_work(int layer)
{
	return remove_tree_at(layer, "work");
}

/* `copied`: the layer is there, as a copy of a seal's. */
int disk_create(const char *id, const char *kept, uint64_t bytes, bool copied)
{
	if (settings.disk_bytes > 0) {
		if (!copied && make_subvolume(id, kept) != 0)
			return -1;
	} else {
		char path[PATH_MAX], options[96];
		disk_path(path, sizeof path, id, "");
		snprintf(options, sizeof options, "mode=711,size=%llu,nr_inodes=%llu", (unsigned long long)bytes,
			(unsigned long long)(bytes / 4096 + 64));
		if (make_directory(path, 0711) != 0)
			return -1;
		if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0)
			return fail("mount tmpfs for %s", id);
	}
	int layer = open_layer(id, kept);
	if (layer < 0)
		return fail("open the layer of %s", id);
	int result = !copied || clear_work(layer) == 0 ? make_layer(layer) : -1;
	if (result == 0 && settings.disk_bytes > 0) {
		struct btrfs_ioctl_qgroup_limit_args limit = { .qgroupid = 0 };
		limit.lim.flags = BTRFS_QGROUP_LIMIT_MAX_RFER;
		limit.lim.max_rfer = bytes;
		if (ioctl(layer, BTRFS_IOC_QGROUP_LIMIT, &limit) != 0)
			result = fail("limit the layer of %s", id);
	}
	close(layer);
	return result;
}

bool disk_has_layer(const char *layer)
{
	return faccessat(layers, layer, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Each in a process of its own, whose pid is returned: they wait for the disk. It says by its exit code how that went. */
static pid_t apart(const char *id, const char *layer, const char *seal, bool copy)
{
	const char *name;
	int place = place_of(id, layer, &name);
	pid_t launcher = getpid(), pid = fork();
	if (pid == 0)
		_exit(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == launcher && (copy ? seal_copy(seal, place, name) : seal_files(seal, place, name)) == 0 ? 0 : 1);
	return pid;
}

pid_t disk_copy_apart(const char *id, const char *layer, const char *seal) { return apart(id, layer, seal, true); }
pid_t disk_seal_apart(const char *id, const char *layer, const char *seal) { return apart(id, layer, seal, false); }

void disk_sync(void)
{
	syncfs(root);
}

/* Writes the disk out in a process of its own, whose pid is returned: it may take as long as the host's disk. It holds
 * nothing else of ours, lest peers wait for it when we are gone. */
pid_t disk_sync_apart(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		dup2(root, 0);
		syscall(SYS_close_range, 1, ~0U, 0);
		_exit(syncfs(0) == 0 ? 0 : 1);
	}
	return pid;
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

static uint64_t subvolume_of(int place, const char *name)
{
	int layer = openat(place, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
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

int disk_remove_subvolume(int place, const char *name)
{
	struct btrfs_ioctl_vol_args subvolume = { 0 };
	uint64_t number = subvolume_of(place, name);
	snprintf(subvolume.name, sizeof subvolume.name, "%s", name);
	if (ioctl(place, BTRFS_IOC_SNAP_DESTROY, &subvolume) != 0 && errno != ENOENT)
		return fail("destroy subvolume %s", name);
	if (number != 0)
		remove_qgroups(number);
	return 0;
}

int disk_remove(const char *id)
{
	if (settings.disk_bytes > 0)
		return disk_remove_subvolume(root, id);
	char path[PATH_MAX];
	disk_path(path, sizeof path, id, "");
	if (umount2(path, MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
		return fail("unmount %s", path);
	return rmdir(path) == 0 || errno == ENOENT ? 0 : fail("rmdir %s", path);
}

int disk_remove_layer(const char *layer)
{
	return settings.disk_bytes > 0 ? disk_remove_subvolume(layers, layer) : 0;
}

static uint64_t qgroup_figure(uint64_t subvolume, const char *name)
{
	char path[160], text[32];
	snprintf(path, sizeof path, "%s/0_%llu/%s", qgroups, (unsigned long long)subvolume, name);
	return read_file(path, text, sizeof text) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* Bytes in a layer: what its quota group refers to and has reserved for delayed writes, or what its tmpfs holds. 0 where
 * that cannot be told. sysfs has the figures of this moment; the quota tree has those of the last commit. */
uint64_t disk_used(const char *id, const char *kept)
{
	const char *name;
	int place = place_of(id, kept, &name);
	return disk_used_subvolume(place, name);
}

uint64_t disk_used_subvolume(int place, const char *name)
{
	int layer = openat(place, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
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

int disk_list_in(const char *path, void (*each)(const char *))
{
	DIR *directory = opendir(path);
	if (directory == NULL)
		return fail("open %s", path);
	struct dirent *entry;
	while ((entry = readdir(directory)) != NULL)
		if (valid_id(entry->d_name))
			each(entry->d_name);
	closedir(directory);
	return 0;
}

int disk_list(void (*each)(const char *id))
{
	return disk_list_in(DISK, each);
}

int disk_list_layers(void (*each)(const char *layer))
{
	return settings.disk_bytes > 0 ? disk_list_in(LAYERS, each) : 0;
}
