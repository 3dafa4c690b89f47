/* The launcher: a small process in a mount namespace of its own that makes and removes the host's side of container
 * sandboxes. See README.md for its protocol. Its peer is the runtime that started it, which is trusted. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_HIERARCHIES 32
#define MAX_SANDBOXES 4096
#define ID_BYTES 64

/* All of it in a tmpfs of our own namespace. */
#define RUN "/run"
#define DISK "/run/disk"
#define OCI_STATE "/run/.oci"

/* What is fixed at start, from the command line. */
struct settings {
	const char *directory;   /* holds disk.img */
	const char *oci_binary;  /* crun or runc */
	const char *cgroup;      /* path of our cgroups below each hierarchy, "/bramble/<node>" */
	const char *hierarchies[MAX_HIERARCHIES];
	int hierarchy_count;
	const char *hide;        /* a mount to take out of our namespace, or NULL: crun 1.8 refuses hybrid cgroups */
	uint64_t disk_bytes;     /* size of the sparse disk image; 0: sandboxes write to tmpfs */
};
extern struct settings settings;

/* Errors travel as text; the first one wins. Returns -1 so that callers can `return fail(...)`. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern char failure[4096];

/* disk.c: where the writable layers live, each under a quota of its own. */
int disk_open(void);
int disk_create(const char *id, uint64_t bytes);
int disk_remove(const char *id);
void disk_sync(void);
bool disk_is_lost(void);
uint64_t disk_used(const char *id);
int disk_list(void (*each)(const char *id));

/* mounts.c */
int mounts_open(void);
int mounts_overlay(const char *id, const char *lowers, uid_t base);
int mounts_run(const char *id, uid_t base);
void mounts_release_root(const char *id);
void mounts_release(const char *id);

/* cgroups.c */
int cgroups_list(void (*each)(const char *id));
void cgroups_thaw(const char *id);
unsigned cgroups_oom_kills(const char *id);
int cgroups_end(const char *id);
void cgroups_close(void);

/* sandboxes.c */
void sandbox_create(const char *tag, const char *id, uid_t base, uint64_t disk_bytes, const char *lowers,
	const char *config, size_t config_bytes);
void sandbox_destroy(const char *tag, const char *id);
void sandbox_ready(int index);
void sandbox_reaped(pid_t pid, int status);
int sandbox_ready_fd(int index);
int sandbox_high_water(void);
int sandbox_patience_ms(void);
void sandbox_expire(void);
void sandbox_end_all(void);
int sandbox_reap_leftovers(void);
extern bool sandbox_failed; /* one could not be made, since this was last cleared */

/* files.c */
int write_file(const char *path, const char *data, size_t bytes);
ssize_t read_file(const char *path, char *data, size_t bytes);
int remove_tree(const char *path);
int make_directory(const char *path, mode_t mode);
bool valid_id(const char *id);

/* main.c: a reply is a tag and fields, each ended by a NUL. */
void reply(const char *tag, const char *kind, const char *text);
void reply_two(const char *tag, const char *kind, const char *text, const char *more);
