/* SPDX-License-Identifier: Apache-2.0 */
#include "line.h"

#include "system.h"

/* As remote.c in the plugin does it. */
#ifndef SPEAK_AFTER_MS
#define SPEAK_AFTER_MS 3000
#endif
#define SPEAK_TURN_MS 50
#define SPEAK_LAST_MS 33000

void line_add(struct line *line, const char *text)
{
	while (*text && line->used < sizeof(line->text) - 2) {
		line->text[line->used++] = (unsigned char)*text < ' ' ? '?' : *text;
		text++;
	}
}

void line_add_number(struct line *line, long number)
{
	char digits[24];
	int at = sizeof(digits) - 1;

	digits[at] = '\0';
	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	line_add(line, digits + at);
}

/* Tell slurmstepd that the status with which this process will end is ours. */
static void tell(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long fd, length = 0;

	while (name[length] && length < (long)sizeof(address.sun_path) - 1)
		length++;
	for (long i = 0; i < length; i++)
		address.sun_path[i + 1] = name[i];
	fd = length ? system_call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, 0) : -1;
	if (fd < 0)
		return;
	length += (long)offsetof(struct sockaddr_un, sun_path) + 1;
	if (system_call(SYS_connect, fd, (long)&address, length, 0) == 0)
		system_call(SYS_write, fd, (long)"", 1, 0);
	system_call(SYS_close, fd, 0, 0, 0);
}

static void on_term(int number)
{
	(void)number;
	system_exit(STATUS);
}

/* One process of the node speaks, of the first node at once; the others give it the time to end the step first. */
_Noreturn void line_fail(const struct step *step, struct line *line)
{
	long wait_ms = SPEAK_AFTER_MS + step->node * SPEAK_TURN_MS;

	system_on_signal(SIGTERM, on_term); /* with which another rank ends the step: the status stays ours */
	if (system_create(PLACE "said") >= 0) {
		if (step->node > 0)
			system_sleep_ms(wait_ms > SPEAK_LAST_MS ? SPEAK_LAST_MS : wait_ms);
		line->text[line->used++] = '\n';
		system_call(SYS_write, 2, (long)line->text, (long)line->used, 0);
		tell(step->end);
	} else {
		system_sleep_ms(300); /* where the first bad exit ends the step, not before the line is out */
	}
	system_exit(STATUS);
}
