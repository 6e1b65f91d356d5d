// SPDX-License-Identifier: Apache-2.0
#include "oci.h"

#include "util.h"

#include <string.h>

void oci_write_strings(struct json *json, const char *name, char *const *strings, size_t count)
{
	if (!count)
		return;
	json_open(json, name, '[');
	for (size_t i = 0; i < count; i++)
		json_string(json, NULL, strings[i]);
	json_close(json, ']');
}

void oci_write_text(struct json *json, const char *name, const char *text)
{
	if (text && text[0])
		json_string(json, name, text);
}

static void write_user(struct json *json, const grpc_User *user)
{
	json_open(json, "user", '{');
	json_uint(json, "uid", user->UID);
	json_uint(json, "gid", user->GID);
	if (user->AdditionalGids_count) {
		json_open(json, "additionalGids", '[');
		for (size_t i = 0; i < user->AdditionalGids_count; i++)
			json_uint(json, NULL, user->AdditionalGids[i]);
		json_close(json, ']');
	}
	json_close(json, '}');
}

/* An empty list is written as well: it means no capabilities. */
static void write_capability_set(struct json *json, const char *name, char *const *strings, size_t count)
{
	json_open(json, name, '[');
	for (size_t i = 0; i < count; i++)
		json_string(json, NULL, strings[i]);
	json_close(json, ']');
}

static void write_capabilities(struct json *json, const grpc_LinuxCapabilities *sets)
{
	json_open(json, "capabilities", '{');
	write_capability_set(json, "bounding", sets->Bounding, sets->Bounding_count);
	write_capability_set(json, "effective", sets->Effective, sets->Effective_count);
	write_capability_set(json, "inheritable", sets->Inheritable, sets->Inheritable_count);
	write_capability_set(json, "permitted", sets->Permitted, sets->Permitted_count);
	write_capability_set(json, "ambient", sets->Ambient, sets->Ambient_count);
	json_close(json, '}');
}

static const char *write_process_members(struct json *json, const grpc_Process *process)
{
	if (!process->Args_count || !text_of(process->Args[0])[0])
		return "the process has no Args";
	if (text_of(process->Cwd)[0] != '/')
		return "the process's Cwd is not absolute";
	json_bool(json, "terminal", process->Terminal);
	if (process->Terminal && process->has_ConsoleSize && process->ConsoleSize.Height) {
		json_open(json, "consoleSize", '{');
		json_uint(json, "height", process->ConsoleSize.Height);
		json_uint(json, "width", process->ConsoleSize.Width);
		json_close(json, '}');
	}
	write_user(json, &process->User);
	oci_write_strings(json, "args", process->Args, process->Args_count);
	oci_write_strings(json, "env", process->Env, process->Env_count);
	json_string(json, "cwd", process->Cwd);
	if (process->has_Capabilities)
		write_capabilities(json, &process->Capabilities);
	if (process->Rlimits_count) {
		json_open(json, "rlimits", '[');
		for (size_t i = 0; i < process->Rlimits_count; i++) {
			json_open(json, NULL, '{');
			json_string(json, "type", process->Rlimits[i].Type);
			json_uint(json, "hard", process->Rlimits[i].Hard);
			json_uint(json, "soft", process->Rlimits[i].Soft);
			json_close(json, '}');
		}
		json_close(json, ']');
	}
	json_bool(json, "noNewPrivileges", process->NoNewPrivileges);
	json_int(json, "oomScoreAdj", process->OOMScoreAdj);
	return NULL;
}

const char *oci_write_process(struct json *json, const grpc_Process *process)
{
	const char *wrong;

	json_open(json, NULL, '{');
	wrong = write_process_members(json, process);
	json_close(json, '}');
	return wrong;
}

static void write_mounts(struct json *json, const grpc_Spec *spec)
{
	json_open(json, "mounts", '[');
	for (size_t i = 0; i < spec->Mounts_count; i++) {
		const grpc_Mount *mount = &spec->Mounts[i];

		json_open(json, NULL, '{');
		json_string(json, "destination", mount->destination);
		oci_write_text(json, "type", mount->type);
		oci_write_text(json, "source", mount->source);
		oci_write_strings(json, "options", mount->options, mount->options_count);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void write_hook_list(struct json *json, const char *name, const grpc_Hook *hooks, size_t count)
{
	if (!count)
		return;
	json_open(json, name, '[');
	for (size_t i = 0; i < count; i++) {
		json_open(json, NULL, '{');
		json_string(json, "path", hooks[i].Path);
		oci_write_strings(json, "args", hooks[i].Args, hooks[i].Args_count);
		oci_write_strings(json, "env", hooks[i].Env, hooks[i].Env_count);
		if (hooks[i].Timeout > 0)
			json_int(json, "timeout", hooks[i].Timeout);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void write_hooks(struct json *json, const grpc_Hooks *hooks)
{
	json_open(json, "hooks", '{');
	write_hook_list(json, "prestart", hooks->Prestart, hooks->Prestart_count);
	write_hook_list(json, "poststart", hooks->Poststart, hooks->Poststart_count);
	write_hook_list(json, "poststop", hooks->Poststop, hooks->Poststop_count);
	write_hook_list(json, "createRuntime", hooks->CreateRuntime, hooks->CreateRuntime_count);
	write_hook_list(json, "createContainer", hooks->CreateContainer, hooks->CreateContainer_count);
	write_hook_list(json, "startContainer", hooks->StartContainer, hooks->StartContainer_count);
	json_close(json, '}');
}

const char *oci_write_config(struct json *json, const grpc_Spec *spec, const struct oci_place *place)
{
	const char *wrong;

	if (!spec->has_Process)
		return "the spec has no Process";
	if (!spec->has_Root || !path_is_valid(spec->Root.Path))
		return "the spec's Root.Path is not an absolute path";
	json_open(json, NULL, '{');
	json_string(json, "ociVersion", text_of(spec->Version)[0] ? spec->Version : "1.0.0");
	json_open(json, "process", '{');
	wrong = write_process_members(json, &spec->Process);
	if (wrong)
		return wrong;
	json_close(json, '}');
	json_open(json, "root", '{');
	json_string(json, "path", spec->Root.Path);
	json_bool(json, "readonly", spec->Root.Readonly);
	json_close(json, '}');
	if (oci_has_namespace(&spec->Linux, "uts"))
		oci_write_text(json, "hostname", text_of(spec->Hostname)[0] ? spec->Hostname : place->hostname);
	write_mounts(json, spec);
	if (spec->has_Hooks)
		write_hooks(json, &spec->Hooks);
	json_open(json, "annotations", '{');
	for (size_t i = 0; i < spec->Annotations_count; i++)
		json_string(json, text_of(spec->Annotations[i].key), spec->Annotations[i].value);
	json_close(json, '}');
	oci_write_linux(json, &spec->Linux, place);
	json_close(json, '}');
	return NULL;
}
