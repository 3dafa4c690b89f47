/* The launcher: a process in a mount namespace of its own that makes and removes the host's side of container sandboxes,
 * and outlives the node that started it while it keeps some. See README.md for its protocol. Its peer is trusted. */
#pragma once

#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL_VERSION 2
#define MAX_HIERARCHIES 32
#define MAX_SANDBOXES 4096
#define ID_BYTES 64
#define MAX_LOWERS_BYTES 8192
#define MAX_HELD 128
#define MAX_IMAGES 16

/* All of it in a tmpfs of our own namespace. */
#define RUN "/run"
#define DISK "/run/disk"
/* No id begins with a dot. */
#define LAYERS DISK "/.layers"
#define SEALS DISK "/.seals"
#define OCI_STATE "/run/.oci"

/* What is fixed at start, from the command line; the OCI binary is the last node's. */
struct settings {
	const char *directory;   /* holds disk.img, the lock and the socket */
	const char *oci_binary;  /* crun or runc */
	const char *criu;        /* the command and its first arguments, one a line; empty: there is none */
	const char *cgroup;      /* path of our cgroups below each hierarchy, "/bramble/<node>" */
	const char *hierarchies[MAX_HIERARCHIES];
	int hierarchy_count;
	const char *hide;        /* a mount to take out of our namespace, or NULL: crun 1.8 refuses hybrid cgroups */
	uint64_t disk_bytes;     /* size of a new disk image; 0: sandboxes write to tmpfs, and none is kept */
};
extern struct settings settings;

/* volumes.c. `UPPERS` in a sandbox's wishes is a cache by its name; the `CACHES` that follow are its generations. */
enum kind { VOLUMES, CACHES, UPPERS };
struct held { enum kind kind; char name[ID_BYTES]; };

/* What `create` asks for. */
struct wanted {
	char *text;              /* of the request, which the rest points into */
	char *config;            /* for the OCI runtime */
	uid_t base;              /* first host id */
	uint64_t disk_bytes;     /* the quota of the layer */
	char layer[ID_BYTES];    /* of a kept sandbox; empty: the layer ends with the sandbox */
	char lowers[MAX_LOWERS_BYTES]; /* absolute paths, the topmost first, joined by newlines */
	struct held held[MAX_HELD];
	int held_count;
	const char *places[MAX_HELD]; /* where in the sandbox volumes and caches are mounted, in their order; the request's */
	int place_count;
	char from[ID_BYTES];     /* the seal it continues; empty: none */
	bool memory;             /* with its processes */
	const char *network;     /* what the hook of `criu.c` is told; the request's, or NULL */
	bool keep_connections;   /* TCP connections within the sandbox go on */
	const char *images[MAX_IMAGES]; /* of memory, that are other ones than the seal's: `NAME:HEX` */
	int image_count;
};

/* Errors travel as text; the first one wins. Returns -1 so that callers can `return fail(...)`. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern char failure[4096];

/* image.c: the disk image, mounted on DISK. */
int image_open(void);
extern char image_notice[PATH_MAX + 256]; /* what the node is to be told of it, or empty */

/* disk.c: where the writable layers live, each under a quota of its own. `layer` empty: the one that is `id`'s alone. */
int disk_open(void);
void disk_close(void);
int disk_create(const char *id, const char *layer, uint64_t bytes, bool copied);
pid_t disk_copy_apart(const char *id, const char *layer, const char *seal);
pid_t disk_seal_apart(const char *id, const char *layer, const char *seal);
bool disk_has_layer(const char *layer);
int disk_remove(const char *id);
int disk_remove_layer(const char *layer);
void disk_path(char *path, size_t bytes, const char *id, const char *layer);
void disk_sync(void);
pid_t disk_sync_apart(void);
bool disk_is_lost(void);
uint64_t disk_used(const char *id, const char *layer);
int disk_list(void (*each)(const char *id));
int disk_list_layers(void (*each)(const char *layer));
int disk_list_in(const char *folder, void (*each)(const char *name));
int disk_remove_subvolume(int place, const char *name);
uint64_t disk_used_subvolume(int place, const char *name);

/* volumes.c: what sandboxes share. */
int volumes_open(void);
void volumes_close(void);
int volume_create(enum kind kind, const char *name, uint64_t bytes, mode_t mode);
int volume_next(const char *name, const char *before);
int volume_remove(enum kind kind, const char *name);
uint64_t volume_used(enum kind kind, const char *name);
int volume_list(enum kind kind, void (*each)(const char *name));
int volumes_mount(const char *id, const struct wanted *wanted);
void volumes_unmount(const char *id);

/* seals.c: states of sandboxes that stay. */
int seals_open(void);
void seals_close(void);
int seals_remove_half_made(void);
bool seal_is_there(const char *seal);
int seal_begin(const char *seal);
int seal_files(const char *seal, int from, const char *name);
int seal_copy(const char *seal, int to, const char *name);
int seal_create(const char *seal, uint64_t bytes);
int seal_finish(const char *seal);
int seal_remove(const char *seal);
int seal_list(void (*each)(const char *seal));

/* sealing.c: seals that are being made of running sandboxes. */
void sealing_begin(const char *tag, const char *id, const char *seal, bool memory, char *places);
bool sealing_reaped(pid_t pid, int status);
void sealing_sync(const char *tag);
bool sealing_busy(void);
int sealing_patience_ms(void);
void sealing_expire(void);

/* oci.c: the OCI runtime. */
pid_t oci_start(const char *id, int ready, const char *bundle);
void oci_words(const char *id);

/* criu.c: memory. */
pid_t criu_dump(const char *id, pid_t init, const char *seal, char *places);
pid_t criu_restore(const char *id, const struct wanted *wanted);
int criu_hook(const char *action);
void criu_words(const char *path);

/* mounts.c */
int mounts_open(void);
int mounts_overlay(const char *id, const struct wanted *wanted);
int map_mount(const char *source, const char *target, uid_t base);
int mounts_run(const char *id, uid_t base);
void mounts_release_root(const char *id);
void mounts_release(const char *id);

/* cgroups.c */
int cgroups_list(void (*each)(const char *id));
void cgroups_thaw(const char *id);
void cgroups_kill(const char *id);
unsigned cgroups_oom_kills(const char *id);
int cgroups_end(const char *id);
void cgroups_close(void);

/* sandboxes.c */
void sandbox_create(const char *tag, const char *id, struct wanted *wanted);
void wanted_free(struct wanted *wanted);
void sandbox_destroy(const char *tag, const char *id);
void sandbox_ready(int index);
void sandbox_reaped(pid_t pid, int status);
int sandbox_ready_fd(int index);
int sandbox_high_water(void);
int sandbox_patience_ms(void);
void sandbox_expire(void);
void sandbox_end_all(bool kept_too);
int sandbox_leaving(void);  /* how many are not simply kept: being made or unmade, or of this connection only */
int sandbox_kept(void);
bool sandbox_runs(const char *id);
const char *sandbox_layer_of(const char *id);
bool sandbox_on_layer(const char *layer);
bool sandbox_holds(enum kind kind, const char *name);
pid_t sandbox_init(const char *id);
void sandbox_list_kept(void (*each)(const char *id, uid_t base, const char *layer));
extern bool sandbox_failed; /* one could not be made, since this was last cleared */

/* leftovers.c: what earlier launchers of this directory left. */
int leftovers_remove(bool told);

/* requests.c */
void request_dispatch(char **field, int count);

/* peer.c: the node, one at a time, over the socket. A reply is a tag and fields, each ended by a NUL. */
int peer_open(int directory);
void peer_loop(int signals);
void reply(const char *tag, const char *kind, const char *text);
void reply_two(const char *tag, const char *kind, const char *text, const char *more);

/* files.c */
int64_t now_ms(void);
int write_file(const char *path, const char *data, size_t bytes);
ssize_t read_file(const char *path, char *data, size_t bytes);
int remove_tree(const char *path);
int remove_tree_at(int directory, const char *name);
int files_list(const char *path, void (*each)(const char *name));
int make_directory(const char *path, mode_t mode);
bool valid_id(const char *id);
