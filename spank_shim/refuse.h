/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_REFUSE_H
#define FAIRLEAD_REFUSE_H

/* In a task: say one line, and end with a status. */
__attribute__((format(printf, 2, 3))) _Noreturn void refuse(int status, const char *format, ...);

#endif
