/* SPDX-License-Identifier: Apache-2.0 */
#include "refuse.h"

#include <slurm/spank.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "report.h"

_Noreturn void refuse(int status, const char *format, ...)
{
	char line[2200];
	va_list list;

	va_start(list, format);
	vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	slurm_spank_log("fairlead: %s", report_printable(line));
	_exit(status);
}
