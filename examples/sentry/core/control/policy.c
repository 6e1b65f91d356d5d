// SPDX-License-Identifier: Apache-2.0
/*
 * The policy: which requests the host may make, as linux-guest/agent/policy.c reads it.  It comes before the sandbox, and
 * never changes.  A request without a rule is refused.
 */
#include "control.h"

#include "../slab.h"

enum { NAME_MOST = 512, LINES_MOST = 1000, WORDS = 5, REQUEST_MOST = 64 };

struct rule {
	struct list rules;
	bool allowed;
	char request[REQUEST_MOST];
};

static struct {
	char *name; /* NULL: every request is served */
	struct list rules;
} policy;

static struct rule *rule_find(const struct reader *request)
{
	LIST_EACH(at, &policy.rules)
		if (reader_is(request, CONTAINER(at, struct rule, rules)->request))
			return CONTAINER(at, struct rule, rules);
	return NULL;
}

static void forget(void)
{
	while (!list_empty(&policy.rules)) {
		struct rule *rule = CONTAINER(policy.rules.next, struct rule, rules);

		list_remove(&rule->rules);
		kfree(rule);
	}
}

static bool is_blank(u8 byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r';
}

/* The words of a line up to a comment, at most WORDS: how many. */
static u32 split(struct reader line, struct reader *words)
{
	u32 count = 0;

	for (const u8 *at = line.at; at < line.end && *at != '#' && count < WORDS;) {
		const u8 *start = at;

		while (at < line.end && *at != '#' && !is_blank(*at))
			at++;
		if (at > start)
			words[count++] = reader_of(start, (u64)(at - start));
		while (at < line.end && is_blank(*at))
			at++;
	}
	return count;
}

/* Read `default REQUEST := true`: NULL, or what is wrong. */
static const char *rule_add(const struct reader *words, u32 count)
{
	struct rule *rule;

	if (!count || (count == 2 && (reader_is(words, "package") || reader_is(words, "import"))))
		return NULL;
	if (count != 4 || !reader_is(words, "default") || !(reader_is(words + 2, ":=") || reader_is(words + 2, "=")) ||
	    !(reader_is(words + 3, "true") || reader_is(words + 3, "false")))
		return "no rule like: default ExecProcessRequest := false";
	if (rule_find(words + 1))
		return "a second rule for the same request";
	if (reader_size(words + 1) >= REQUEST_MOST)
		return NULL; /* no request has such a name */
	rule = kmalloc(sizeof(*rule));
	if (!rule)
		return "no memory";
	bytes_copy(rule->request, words[1].at, reader_size(words + 1));
	rule->allowed = reader_is(words + 3, "true");
	list_add(&policy.rules, &rule->rules);
	return NULL;
}

static const char *read_lines(struct reader text, u32 *line)
{
	const char *wrong = NULL;

	list_init(&policy.rules);
	for (*line = 1; !wrong && text.at < text.end; ++*line) {
		struct reader words[WORDS], one = text;
		u32 count;

		for (one.end = one.at; one.end < text.end && *one.end != '\n';)
			one.end++;
		text.at = one.end < text.end ? one.end + 1 : one.end;
		count = split(one, words);
		wrong = count && *line > LINES_MOST ? "too many lines" : rule_add(words, count);
	}
	--*line;
	return wrong;
}

s64 set_policy(struct call *call)
{
	struct reader name = reader_part(call->request, SetPolicyRequest_name);
	const char *wrong;
	u32 line;

	if (policy.name)
		return call_fail(call, STATUS_PERMISSION_DENIED, "the policy ", policy.name, " cannot be changed");
	if (control_has_sandbox())
		return call_fail(call, STATUS_FAILED_PRECONDITION, "a policy comes before the sandbox", NULL, NULL);
	if (reader_size(&name) >= NAME_MOST)
		name.end = name.at + NAME_MOST - 1;
	policy.name = reader_text(&name);
	if (!policy.name)
		return -EINVAL;
	wrong = read_lines(reader_part(call->request, SetPolicyRequest_policy), &line);
	if (!wrong)
		return 0;
	call_fail(call, STATUS_INVALID_ARGUMENT, "policy ", policy.name, ": line ");
	text_number(&call->why, line);
	text_put(&call->why, ": ");
	text_put(&call->why, wrong);
	forget();
	kfree(policy.name);
	policy.name = NULL;
	return 0;
}

bool policy_refuses(struct call *call, const char *request, bool otherwise)
{
	const struct reader name = reader_of(request, string_size(request));
	const struct rule *rule = policy.name ? rule_find(&name) : NULL;

	if (!policy.name || (rule ? rule->allowed : otherwise))
		return false;
	call_fail(call, STATUS_PERMISSION_DENIED, request, " is blocked by the policy ", policy.name);
	return true;
}
