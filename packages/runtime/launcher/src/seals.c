/* Seals: states of sandboxes that stay. Each is a folder below SEALS with `files`, a read-only snapshot of a sandbox's writable
 * layer, and `memory`, the images of its processes where there are any. Until `seal-finish` its name begins with a dot,
 * which no name does, so a half-made one is never taken for a seal, and it is removed when its node has gone. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int place = -1;

/* `.NAME` while it is made. */
static void hidden(char name[ID_BYTES + 1], const char *seal)
{
	snprintf(name, ID_BYTES + 1, ".%s", seal);
}

static int open_folder(const char *name)
{
	return openat(place, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int remove_folder(const char *name)
{
	char path[PATH_MAX];
	int folder = open_folder(name);
	if (folder < 0)
		return errno == ENOENT ? 0 : fail("open the seal %s", name);
	int result = disk_remove_subvolume(folder, "files");
	close(folder);
	snprintf(path, sizeof path, "%s/%s", SEALS, name);
	return result == 0 ? remove_tree(path) : -1;
}

/* Nobody finishes them any more. */
int seals_remove_half_made(void)
{
	DIR *directory = opendir(SEALS);
	if (directory == NULL)
		return fail("open %s", SEALS);
	struct dirent *entry;
	while ((entry = readdir(directory)) != NULL)
		if (entry->d_name[0] == '.' && valid_id(entry->d_name + 1))
			remove_folder(entry->d_name);
	closedir(directory);
	failure[0] = '\0';
	return 0;
}

int seals_open(void)
{
	if (make_directory(SEALS, 0711) != 0)
		return -1;
	place = open(SEALS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return place < 0 ? fail("open %s", SEALS) : seals_remove_half_made();
}

void seals_close(void)
{
	close(place);
}

bool seal_is_there(const char *seal)
{
	return faccessat(place, seal, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Makes the folder of a seal that is to be made. */
int seal_begin(const char *seal)
{
	char name[ID_BYTES + 1];
	hidden(name, seal);
	if (seal_is_there(seal)) {
		errno = 0;
		return fail("the seal %s is there already", seal);
	}
	if (mkdirat(place, name, 0711) != 0)
		return fail("mkdir for the seal %s", seal);
	return 0;
}

static int snapshot(int source, int folder, const char *name)
{
	struct btrfs_ioctl_vol_args_v2 arguments = { .fd = source };
	snprintf(arguments.name, sizeof arguments.name, "%s", name);
	return ioctl(folder, BTRFS_IOC_SNAP_CREATE_V2, &arguments) == 0 ? 0 : fail("snapshot");
}

/* A snapshot of the subvolume `name` in `from` as the files of a seal: it waits until what was written is on its way to the
 * disk, and for a commit. */
int seal_files(const char *seal, int from, const char *name)
{
	char folder_name[ID_BYTES + 1];
	hidden(folder_name, seal);
	int source = openat(from, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), folder = open_folder(folder_name);
	int result = source < 0 || folder < 0 ? fail("open what is to be sealed") : snapshot(source, folder, "files");
	if (source >= 0)
		close(source);
	if (folder >= 0)
		close(folder);
	return result;
}

/* The files of a seal as the new subvolume `name` in `to`. */
int seal_copy(const char *seal, int to, const char *name)
{
	int folder = open_folder(seal), source = -1, result;
	if (folder >= 0)
		source = openat(folder, "files", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	result = source < 0 ? fail("open the seal %s", seal) : snapshot(source, to, name);
	if (source >= 0)
		close(source);
	if (folder >= 0)
		close(folder);
	return result;
}

/* An empty layer, to be filled by the node: `files/upper` and `memory` of a seal that is not finished. */
int seal_create(const char *seal, uint64_t bytes)
{
	char name[ID_BYTES + 1];
	struct btrfs_ioctl_vol_args subvolume = { .name = "files" };
	struct btrfs_ioctl_qgroup_limit_args limit = { .lim = { .flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = bytes } };
	hidden(name, seal);
	if (seal_begin(seal) != 0)
		return -1;
	int folder = open_folder(name), files = -1, result = 0;
	if (folder < 0 || ioctl(folder, BTRFS_IOC_SUBVOL_CREATE, &subvolume) != 0 ||
		(files = openat(folder, "files", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)) < 0)
		result = fail("make the seal %s", seal);
	else if (ioctl(files, BTRFS_IOC_QGROUP_LIMIT, &limit) != 0)
		result = fail("limit the seal %s", seal);
	else if (fchmod(files, 0711) != 0 || mkdirat(files, "work", 0700) != 0 || mkdirat(files, "upper", 0755) != 0)
		result = fail("mkdir in the seal %s", seal);
	if (files >= 0)
		close(files);
	if (folder >= 0)
		close(folder);
	if (result != 0)
		seal_remove(seal);
	return result;
}

/* From now on its files never change, and it is a seal. */
int seal_finish(const char *seal)
{
	char name[ID_BYTES + 1];
	uint64_t flags = BTRFS_SUBVOL_RDONLY;
	hidden(name, seal);
	int folder = open_folder(name), files = -1, result = 0;
	if (folder >= 0)
		files = openat(folder, "files", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (files < 0 || ioctl(files, BTRFS_IOC_SUBVOL_SETFLAGS, &flags) != 0)
		result = fail("close the seal %s", seal);
	else if (syscall(SYS_renameat2, place, name, place, seal, 1 /* RENAME_NOREPLACE */) != 0)
		result = fail("name the seal %s", seal);
	if (files >= 0)
		close(files);
	if (folder >= 0)
		close(folder);
	return result;
}

/* Whole or half made. A whole one is none any more before its parts go: what is left of it by a crash is half made. */
int seal_remove(const char *seal)
{
	char name[ID_BYTES + 1];
	hidden(name, seal);
	if (remove_folder(name) != 0)
		return -1;
	if (renameat(place, seal, place, name) != 0)
		return errno == ENOENT ? 0 : fail("rename the seal %s", seal);
	return remove_folder(name);
}

int seal_list(void (*each)(const char *seal))
{
	return settings.disk_bytes > 0 ? disk_list_in(SEALS, each) : 0;
}
