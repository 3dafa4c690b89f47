/* The table of the applets. */
#include "applets.h"

enum { BAD_USAGE = 64 };

static const struct applet {
  const char *name;
  int least, most; /* arguments */
  int (*run)(int argc, char **argv);
  const char *arguments;
} applets[] = {
  { "put", 2, 2, applet_put, "PATH MODE" },
  { "get", 2, 2, applet_get, "PATH MAXBYTES" },
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
