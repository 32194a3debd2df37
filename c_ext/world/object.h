/* SPDX-License-Identifier: Apache-2.0
 *
 * The files that the dynamic loader has mapped, and what they define. dlsym(RTLD_NEXT) would look only in the scope of
 * this library: an MPI that mpi4py's module brought with RTLD_LOCAL is not in it. */
#ifndef FAIRLEAD_WORLD_OBJECT_H
#define FAIRLEAD_WORLD_OBJECT_H

#include <stdint.h>

struct object {
	uintptr_t base;
	const char *path;   /* empty for the program itself */
	const char *soname; /* "" where it has none */
	void *dynamic;
};

int text_equal(const char *one, const char *other);
int text_begins(const char *text, const char *with);

/* Address of what an object defines, or NULL. */
void *object_symbol(const struct object *object, const char *name);

/* The object, loaded after this library, whose definition of a function a caller means: the first one, but rather one that
 * the caller's own file asks for. Returns the function, NULL if there is none. */
void *object_next(const char *name, const void *caller, struct object *ret_object);

/* The first definition of all, as the loader binds it: of a data object the program's copy. */
void *object_first(const char *name);

/* Call back for every object that defines a name, this library left out, until it returns other than 0. */
int object_each(const char *name, int (*visit)(const struct object *object, void *data), void *data);

/* Likewise for those that were loaded before this library, whose definitions come before its own. */
int object_each_before(const char *name, int (*visit)(const struct object *object, void *data), void *data);

#endif
