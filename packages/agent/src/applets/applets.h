/* Applets: what the agent's program does when it is run as an ordinary command in the sandbox. ../../FRAMES.md documents them. */
#ifndef APPLETS_H
#define APPLETS_H
#include "../agent.h"
#include <stdio.h>

/* Each takes the arguments after its name, as many as the table allows, and returns the exit code. */
int applet_put(int argc, char **argv), applet_get(int argc, char **argv);

#endif
