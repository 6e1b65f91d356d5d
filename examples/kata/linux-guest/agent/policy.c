// SPDX-License-Identifier: Apache-2.0
/*
 * The agent policy: which requests the host may make. Supports only the constant rules of Kata's policies, not the
 * rest of Rego. A request without a rule is refused.
 */
#include "ttrpc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS 5
#define BLANK " \t\r"

struct rule {
	struct rule *next;
	char *request;
	bool allowed;
};

static const struct rule *rule_find(const struct policy *policy, const char *request)
{
	const struct rule *rule = policy->rules;

	while (rule && strcmp(rule->request, request))
		rule = rule->next;
	return rule;
}

/* Parse `default REQUEST := true`. NULL or an error message. */
static const char *rule_add(struct policy *policy, char *const words[WORDS], int count)
{
	struct rule *rule;

	if (count == 2 && (!strcmp(words[0], "package") || !strcmp(words[0], "import")))
		return NULL;
	if (count != 4 || strcmp(words[0], "default") || (strcmp(words[2], ":=") && strcmp(words[2], "=")) ||
	    (strcmp(words[3], "true") && strcmp(words[3], "false")))
		return "no rule like: default ExecProcessRequest := false";
	if (rule_find(policy, words[1]))
		return "a second rule for the same request";
	rule = xzalloc(sizeof(*rule));
	rule->request = xstrdup(words[1]);
	rule->allowed = !strcmp(words[3], "true");
	rule->next = policy->rules;
	policy->rules = rule;
	return NULL;
}

const char *policy_read(struct policy *policy, const char *text, unsigned int *line)
{
	char *copy = xstrdup(text), *rest = copy, *words[WORDS], *save, *word;
	const char *wrong = NULL;

	for (*line = 1; !wrong && rest; ++*line) {
		char *one = strsep(&rest, "\n");
		int count = 0;

		one[strcspn(one, "#")] = '\0';
		for (word = strtok_r(one, BLANK, &save); word; word = strtok_r(NULL, BLANK, &save)) {
			words[count++] = word;
			if (count == WORDS)
				break;
		}
		if (count)
			wrong = *line > POLICY_LINES ? "too many lines" : rule_add(policy, words, count);
	}
	--*line;
	free(copy);
	return wrong;
}

void policy_deinit(struct policy *policy)
{
	struct rule *rule;

	while ((rule = policy->rules)) {
		policy->rules = rule->next;
		free(rule->request);
		free(rule);
	}
}

bool policy_allows(const struct policy *policy, const char *request, bool otherwise)
{
	const struct rule *rule = rule_find(policy, request);

	return rule ? rule->allowed : otherwise;
}
