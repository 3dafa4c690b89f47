/* What earlier launchers of this directory left when they were killed: their cgroups tell. Their mounts end with the
 * sandboxes' own namespaces. */
#include "launcher.h"

#include <stdio.h>
#include <string.h>

/* What was killed takes longer to end on a host where many start at once, and nobody looks for it later. */
#define LEFTOVER_TRIES_MAX 10

static char leftovers[MAX_SANDBOXES][ID_BYTES];
static int leftover_count;
static int removed; /* and no node was told yet */

static void note(const char *id)
{
	for (int i = 0; i < leftover_count; i++)
		if (strcmp(leftovers[i], id) == 0)
			return;
	if (leftover_count < MAX_SANDBOXES && !sandbox_runs(id))
		snprintf(leftovers[leftover_count++], ID_BYTES, "%s", id);
}

/* Kills and removes them. Waits for the kernel, a second at most for each. Returns how many there were since a node was
 * last told, which it is now if `told`. */
int leftovers_remove(bool told)
{
	leftover_count = 0;
	cgroups_list(note);
	for (int i = 0; i < leftover_count; i++)
		cgroups_kill(leftovers[i]);
	for (int i = 0; i < leftover_count; i++)
		for (int tries = 0; tries < LEFTOVER_TRIES_MAX && cgroups_end(leftovers[i]) != 0; tries++)
			;
	int count = removed + leftover_count;
	removed = told ? 0 : count;
	return count;
}
