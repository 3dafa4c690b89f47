/* What the node asks for. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for the longest list there is: kept sandboxes with their ids and layers. */
static char listing[MAX_SANDBOXES * (2 * ID_BYTES + 16)];
static size_t listed;

static void list_one(const char *id)
{
	size_t length = strlen(id);
	if (listed + length + 2 > sizeof listing)
		return;
	listed += (size_t)snprintf(listing + listed, sizeof listing - listed, "%s%s", listed > 0 ? "\n" : "", id);
}

/* An id has a cgroup in each hierarchy, and a layer. All are of one length, so none is part of another. */
static void list_once(const char *id)
{
	if (strstr(listing, id) == NULL)
		list_one(id);
}

static void list_kept(const char *id, uid_t base, const char *layer)
{
	char line[2 * ID_BYTES + 16];
	snprintf(line, sizeof line, "%s\t%u\t%s", id, base, layer);
	list_one(line);
}

static bool hold(struct wanted *wanted, enum kind kind, const char *name)
{
	if (!valid_id(name) || wanted->held_count == MAX_HELD)
		return false;
	struct held *held = &wanted->held[wanted->held_count++];
	held->kind = kind;
	strcpy(held->name, name);
	return true;
}

/* Settings of a sandbox: `key=value`, one a line. An unknown key is an error, so that nothing asked for is left out. */
static int parse_wanted(char *text, struct wanted *wanted)
{
	size_t lowers = 0;
	errno = 0;
	for (char *line; (line = strsep(&text, "\n")) != NULL;) {
		char *value = strchr(line, '=');
		if (*line == '\0')
			continue;
		if (value == NULL)
			return fail("a setting without value: %.64s", line);
		*value++ = '\0';
		size_t room = sizeof wanted->lowers - lowers;
		if (strcmp(line, "uid") == 0)
			wanted->base = (uid_t)strtoul(value, NULL, 10);
		else if (strcmp(line, "disk") == 0)
			wanted->disk_bytes = strtoull(value, NULL, 10);
		else if (strcmp(line, "layer") == 0 && valid_id(value))
			strcpy(wanted->layer, value);
		else if (strcmp(line, "volume") == 0 && hold(wanted, VOLUMES, value))
			;
		else if (strcmp(line, "cache") == 0 && hold(wanted, UPPERS, value))
			;
		else if (strcmp(line, "generation") == 0 && hold(wanted, CACHES, value))
			;
		else if (strcmp(line, "at") == 0 && value[0] == '/' && strlen(value) < PATH_MAX && wanted->place_count < MAX_HELD)
			wanted->places[wanted->place_count++] = value;
		else if (strcmp(line, "from") == 0 && valid_id(value))
			strcpy(wanted->from, value);
		else if (strcmp(line, "memory") == 0 && (strcmp(value, "close") == 0 || strcmp(value, "keep") == 0)) {
			wanted->memory = true;
			wanted->keep_connections = *value == 'k';
		} else if (strcmp(line, "network") == 0)
			wanted->network = value;
		else if (strcmp(line, "image") == 0 && wanted->image_count < MAX_IMAGES)
			wanted->images[wanted->image_count++] = value;
		else if (strcmp(line, "lower") == 0 && strlen(value) + 2 <= room)
			lowers += (size_t)snprintf(wanted->lowers + lowers, room, "%s%s", lowers > 0 ? "\n" : "", value);
		else
			return fail("the setting %.64s is not known, or not as it must be", line);
	}
	return wanted->base == 0 || lowers == 0 ? fail("a sandbox needs `uid` and `lower`") : 0;
}

static void create(const char *tag, const char *id, const char *text, const char *config)
{
	struct wanted *wanted = calloc(1, sizeof *wanted);
	if (wanted == NULL)
		abort();
	wanted->text = strdup(text);
	wanted->config = strdup(config);
	if (wanted->text == NULL || wanted->config == NULL)
		abort();
	if (parse_wanted(wanted->text, wanted) != 0)
		reply(tag, "error", failure);
	else if ((wanted->layer[0] != '\0' || wanted->held_count > 0 || wanted->from[0] != '\0') && settings.disk_bytes == 0)
		reply(tag, "error", "there is no btrfs for a layer that stays, nor for volumes and seals");
	else if (wanted->layer[0] != '\0' && sandbox_on_layer(wanted->layer))
		reply(tag, "conflict", "a sandbox runs on the layer");
	else if (wanted->from[0] != '\0' && !seal_is_there(wanted->from))
		reply(tag, "missing", "there is no such seal");
	else if (wanted->from[0] != '\0' && wanted->layer[0] != '\0' && disk_has_layer(wanted->layer))
		reply(tag, "conflict", "the layer is there already");
	else {
		sandbox_create(tag, id, wanted);
		return;
	}
	wanted_free(wanted);
}

static void remove_layer(const char *tag, const char *layer)
{
	if (sandbox_on_layer(layer))
		reply(tag, "conflict", "a sandbox runs on the layer");
	else if (disk_remove_layer(layer) != 0)
		reply(tag, "error", failure);
	else
		reply(tag, "ok", "");
}

static void remove_volume(const char *tag, enum kind kind, const char *name)
{
	if (kind == UPPERS ? sandbox_runs(name) || sandbox_on_layer(name) : sandbox_holds(kind, name))
		reply(tag, "conflict", "a sandbox uses it");
	else if (volume_remove(kind, name) != 0)
		reply(tag, "error", failure);
	else
		reply(tag, "ok", "");
}

static int kind_of(const char *word)
{
	return strcmp(word, "volume") == 0 ? VOLUMES : strcmp(word, "cache") == 0 ? CACHES : strcmp(word, "upper") == 0 ? UPPERS : -1;
}

/* What concerns volumes, generations of caches and uppers. False: it is not known. */
static bool dispatch_volumes(const char *tag, const char *operation, char **field, int count)
{
	char number[32], word[16];
	const char *name = field[2], *what = strchr(operation, '-');
	if (what == NULL || (size_t)(what - operation) >= sizeof word || settings.disk_bytes == 0)
		return false;
	snprintf(word, sizeof word, "%.*s", (int)(what - operation), operation);
	int kind = kind_of(word);
	if (kind < 0)
		return false;
	if (strcmp(what, "-create") == 0 && kind == VOLUMES && count == 4)
		reply(tag, volume_create(kind, name, strtoull(field[3], NULL, 10), 0777) == 0 ? "ok" : "error", failure);
	else if (strcmp(what, "-next") == 0 && kind == CACHES && count == 4 && (field[3][0] == '\0' || valid_id(field[3])))
		reply(tag, volume_next(name, field[3]) == 0 ? "ok" : "error", failure);
	else if (strcmp(what, "-remove") == 0)
		remove_volume(tag, (enum kind)kind, name);
	else if (strcmp(what, "-used") == 0) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)volume_used((enum kind)kind, name));
		reply(tag, "ok", number);
	} else
		return false;
	return true;
}

/* What concerns seals. False: it is not known. */
static bool dispatch_seals(const char *tag, const char *operation, char **field, int count)
{
	const char *name = field[2];
	if (settings.disk_bytes == 0)
		return false;
	if (strcmp(operation, "seal") == 0 && count == 6 && valid_id(field[3]))
		sealing_begin(tag, name, field[3], strcmp(field[4], "memory") == 0, field[5]);
	else if (strcmp(operation, "seal-create") == 0 && count == 4)
		reply(tag, seal_create(name, strtoull(field[3], NULL, 10)) == 0 ? "ok" : "error", failure);
	else if (strcmp(operation, "seal-finish") == 0)
		reply(tag, seal_finish(name) == 0 ? "ok" : "error", failure);
	else if (strcmp(operation, "seal-remove") == 0)
		reply(tag, seal_remove(name) == 0 ? "ok" : "error", failure);
	else
		return false;
	return true;
}

/* One that asks about nothing in particular. False: it is not known. */
static bool dispatch_general(const char *tag, const char *operation)
{
	char number[32];
	listing[0] = '\0';
	listed = 0;
	if (strcmp(operation, "list") == 0) {
		cgroups_list(list_once);
		disk_list(list_once);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "kept") == 0) {
		sandbox_list_kept(list_kept);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "layers") == 0) {
		disk_list_layers(list_one);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "sync") == 0) {
		sealing_sync(tag);
	} else if (strcmp(operation, "seals") == 0) {
		seal_list(list_one);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "volumes") == 0 || strcmp(operation, "caches") == 0 || strcmp(operation, "uppers") == 0) {
		volume_list(operation[0] == 'v' ? VOLUMES : operation[0] == 'c' ? CACHES : UPPERS, list_one);
		reply(tag, "ok", listing);
	} else if (strcmp(operation, "reap") == 0) {
		snprintf(number, sizeof number, "%d", leftovers_remove(true));
		reply(tag, failure[0] == '\0' ? "ok" : "error", failure[0] == '\0' ? number : failure);
	} else {
		return false;
	}
	return true;
}

void request_dispatch(char **field, int count)
{
	const char *tag = field[0], *operation = count > 1 ? field[1] : "";
	char number[32];
	failure[0] = '\0';
	errno = 0;
	if (strlen(tag) >= 32) {
		reply("", "fatal", "a tag is too long");
	} else if (dispatch_general(tag, operation)) {
		;
	} else if (count < 3 || !valid_id(field[2])) {
		reply(tag, "error", "the request has no valid id");
	} else if (dispatch_volumes(tag, operation, field, count) || dispatch_seals(tag, operation, field, count)) {
		;
	} else if (strcmp(operation, "create") == 0 && count == 5) {
		create(tag, field[2], field[3], field[4]);
	} else if (strcmp(operation, "destroy") == 0) {
		sandbox_destroy(tag, field[2]);
	} else if (strcmp(operation, "used") == 0) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)disk_used(field[2], sandbox_layer_of(field[2])));
		reply(tag, "ok", number);
	} else if (strcmp(operation, "layer-used") == 0) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)disk_used("", field[2]));
		reply(tag, "ok", number);
	} else if (strcmp(operation, "layer-remove") == 0) {
		remove_layer(tag, field[2]);
	} else {
		reply(tag, "error", "the request is not known");
	}
	failure[0] = '\0';
}
