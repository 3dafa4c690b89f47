/* The disk of the sandboxes: btrfs on a sparse image, attached by a loop device and mounted in our namespace only. It holds
 * the layers of kept sandboxes, so it is never made anew while there is one that can be mounted. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA
#define BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA 4
#endif

/* How long the kernel may take to let go of the image, after the last process of an earlier launcher's sandboxes. */
#define DETACH_TRIES_MAX 1000
#define DETACH_WAIT_NS 5000000

char image_notice[PATH_MAX + 256];

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

/* Whether a loop device still has the image: then the file system on it is mounted in some namespace. */
static bool is_attached(const struct stat *image)
{
	DIR *directory = opendir("/sys/block");
	bool found = false;
	struct dirent *entry;
	while (directory != NULL && !found && (entry = readdir(directory)) != NULL) {
		char path[512];
		struct loop_info64 info;
		snprintf(path, sizeof path, "/sys/block/%.64s/loop", entry->d_name);
		if (strncmp(entry->d_name, "loop", 4) != 0 || access(path, F_OK) != 0)
			continue;
		snprintf(path, sizeof path, "/dev/%.64s", entry->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0)
			found = info.lo_device == image->st_dev && info.lo_inode == image->st_ino;
		if (fd >= 0)
			close(fd);
	}
	if (directory != NULL)
		closedir(directory);
	return found;
}

static int enable_quotas(int fd)
{
	struct btrfs_ioctl_quota_ctl_args quota = { .cmd = BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA };
	if (ioctl(fd, BTRFS_IOC_QUOTA_CTL, &quota) == 0)
		return 0;
	quota.cmd = BTRFS_QUOTA_CTL_ENABLE;
	return ioctl(fd, BTRFS_IOC_QUOTA_CTL, &quota) == 0 ? 0 : fail("enable quotas on %s", DISK);
}

/* Mounts an image on DISK and sees that it can be written. */
static int mount_image(const char *image)
{
	struct statvfs space;
	if (run((char *const[]){ "mount", "-n", "-t", "btrfs", "-o", "loop,noatime,nosuid,nodev,discard=sync,commit=10",
			(char *)image, DISK, NULL }) != 0)
		return -1;
	int fd = open(DISK, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
	if (fd < 0)
		result = fail("open %s", DISK);
	else if (fstatvfs(fd, &space) != 0 || (space.f_flag & ST_RDONLY) != 0)
		result = fail("%s can be read only: the kernel's log says why", image);
	else
		result = enable_quotas(fd);
	if (fd >= 0)
		close(fd);
	if (result != 0)
		umount2(DISK, MNT_DETACH);
	return result;
}

static int make_image(const char *path)
{
	unlink(path);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail("create %s", path);
	int result = ftruncate(fd, (off_t)settings.disk_bytes) == 0 ? 0 : fail("truncate %s", path);
	if (result == 0)
		result = run((char *const[]){ "mkfs.btrfs", "-q", "-K", "-m", "single", "-d", "single", (char *)path, NULL });
	if (result == 0 && fsync(fd) != 0)
		result = fail("fsync %s", path);
	close(fd);
	return result;
}

/* An image that cannot be mounted is moved aside once another could be made and mounted: where that fails too, the host is
 * at fault, say because its disk is full, and the image stays for the next try. */
static int move_aside(const char *image)
{
	char aside[PATH_MAX + 64], when[32];
	time_t now = time(NULL);
	struct tm parts;
	strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &parts));
	snprintf(aside, sizeof aside, "%s.broken-%s", image, when);
	if (rename(image, aside) != 0)
		return fail("rename %s", image);
	snprintf(image_notice, sizeof image_notice, "the disk of the sandboxes could not be mounted, and is now %s", aside);
	return 0;
}

int image_open(void)
{
	char image[PATH_MAX], fresh[PATH_MAX + 8];
	struct stat found;
	snprintf(image, sizeof image, "%s/disk.img", settings.directory);
	snprintf(fresh, sizeof fresh, "%s.new", image);
	bool there = stat(image, &found) == 0;
	if (!there && errno != ENOENT)
		return fail("stat %s", image);
	if (there) {
		for (int tries = 0; tries < DETACH_TRIES_MAX && is_attached(&found); tries++)
			nanosleep(&(struct timespec){ .tv_nsec = DETACH_WAIT_NS }, NULL);
		if (mount_image(image) == 0)
			return 0;
	}
	char reason[sizeof failure];
	memcpy(reason, failure, sizeof reason);
	failure[0] = '\0';
	int result = make_image(fresh) != 0 || mount_image(fresh) != 0 ? -1 : 0;
	if (result == 0 && there)
		result = move_aside(image);
	if (result == 0 && rename(fresh, image) != 0)
		result = fail("rename %s", fresh);
	if (result != 0 && there)
		memcpy(failure, reason, sizeof failure);
	if (result != 0)
		unlink(fresh);
	return result;
}
