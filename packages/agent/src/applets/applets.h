/* Applets: what the agent's program does when it is run as a command in the sandbox. ../../FRAMES.md documents them. */
#ifndef APPLETS_H
#define APPLETS_H
#include "../agent.h"
#include <stdio.h>

/* Exit codes; 1 is also what a refused `put` has always been. */
enum { DONE = 0, NO = 1, NOT_FOUND = 2, BAD_ARCHIVE = 3, BAD_USAGE = 64 };
enum { OUT_BYTES = 128 << 10, BLOCK_BYTES = 128 << 10, HOLE_BYTES = 16 << 10, MARK_BYTES = 32 };

/* Each takes the arguments after its name, as many as the table allows, and returns the exit code. */
typedef int applet(int argc, char **argv);
applet applet_put, applet_get, applet_write, applet_read, applet_stat, applet_list, applet_mkdir, applet_move,
  applet_remove, applet_set, applet_tar, applet_untar, applet_sftp, applet_watch, applet_observe,
  applet_emit, applet_relay;

/* io.c. `no` says why (reason first: a path may be long), and gives NOT_FOUND or NO back. */
int no(const char *path, int error);
bool write_all(int fd, const void *data, size_t length);
bool out_bytes(const void *data, size_t length), out_flush(void);
bool out_record(const char *name, const struct stat *stat, const char *target);
bool write_sparse(int fd, const uint8_t *data, size_t length, off_t at);
bool to_number(const char *text, int base, uint64_t max, uint64_t *value);
bool to_owner(const char *text, uid_t *uid, gid_t *gid);

/* paths.c */
int parent_of(int at, const char *path, char *name, bool make);
int make_directories(const char *path, mode_t mode);
int remove_tree(int parent, const char *name);

/* sink.c: a file that appears whole or not at all, whenever this process is killed. */
struct sink { int dir, fd, guard; char temporary[32]; };
bool sink_open(struct sink *sink, int dir), sink_commit(struct sink *sink, const char *name, bool replace);
void sink_drop(struct sink *sink);
int guard_start(int dir, const char *name);
void temporary_name(char *name);

/* walk.c: a tree of any depth, with few descriptors. Never follows a link. */
enum walked { WALK_END, WALK_ENTRY, WALK_LEFT, WALK_FAILED };
struct walk {
  struct level *levels;
  char *path, *name; /* of the entry: from the root of the walk, and its last part */
  uint8_t type;      /* DT_…; may be DT_UNKNOWN */
  bool emptying;     /* what was walked is removed meanwhile */
  size_t depth, levels_room, path_room;
  uint8_t (*buffers)[32 << 10];
  struct { int at, end; } held[32];
};
bool walk_begin(struct walk *walk, int fd), walk_enter(struct walk *walk);
enum walked walk_next(struct walk *walk);
int walk_fd(const struct walk *walk);
void walk_skip(struct walk *walk), walk_end(struct walk *walk);

/* place.c: where the entries of an archive go; a path is resolved below the root and through no link. */
struct attributes { mode_t mode; uid_t uid; gid_t gid; struct timespec modified; bool owner; };
struct place {
  struct spot *spots;
  char *path;
  size_t depth, spots_room, path_room, path_length;
  int root;
};
bool place_begin(struct place *place, int root), place_end(struct place *place);
char *place_find(struct place *place, char *path, int *dir);
bool place_directory(struct place *place, const char *name, const struct attributes *attributes);
void place_root(struct place *place, const struct attributes *attributes);
int place_lookup(const struct place *place, char *path, char **name);
bool attributes_apply(int fd, const struct attributes *attributes);
bool attributes_apply_at(int dir, const char *name, const struct attributes *attributes);

#endif
