/* The table of the applets. */
#include "applets.h"

static const struct applet {
  const char *name;
  int least, most; /* arguments */
  applet *run;
  const char *arguments;
} applets[] = {
  { "put", 2, 2, applet_put, "PATH MODE" },
  { "get", 2, 2, applet_get, "PATH MAXBYTES" },
  { "write", 2, 4, applet_write, "PATH MARK [MODE|- [UID:GID|-]]" },
  { "read", 2, 3, applet_read, "PATH OFFSET [LENGTH]" },
  { "stat", 2, 2, applet_stat, "PATH link|follow" },
  { "list", 3, 3, applet_list, "PATH MAX one|all" },
  { "mkdir", 3, 3, applet_mkdir, "PATH MODE one|parents" },
  { "move", 2, 2, applet_move, "FROM TO" },
  { "remove", 2, 2, applet_remove, "PATH one|all" },
  { "set", 1, 4, applet_set, "PATH [owner=UID:GID] [mode=MODE] [modified=NANOSECONDS]" },
  { "tar", 1, 1, applet_tar, "PATH" },
  { "untar", 1, 1, applet_untar, "PATH" },
  { "sftp", 0, 1, applet_sftp, "[DIRECTORY]" },
  { "watch", 1, 4, applet_watch, "[--recursive] [--max DIRECTORIES] PATH" },
  { "observe", 1, 2, applet_observe, "INTERVAL_MS [--once]" },
  { "emit", 1, 2, applet_emit, "NAME [DATA|-]" },
  { "relay", 1, 1, applet_relay, "PATH" },
};

/* Says on standard error what failed; gives `code` back. */
int complain(int code, const char *what, int error) {
  dprintf(2, "%s: %s\n", what, strerrordesc_np(error));
  return code;
}

int applet_main(int argc, char **argv) {
  for (size_t i = 0; i < sizeof applets / sizeof *applets; i++) {
    if (strcmp(argv[0], applets[i].name) != 0) continue;
    if (argc - 1 >= applets[i].least && argc - 1 <= applets[i].most) return applets[i].run(argc - 1, argv + 1);
    dprintf(2, "usage: %s %s\n", applets[i].name, applets[i].arguments);
    return BAD_USAGE;
  }
  dprintf(2, "%s: no such applet\n", argv[0]);
  return BAD_USAGE;
}
