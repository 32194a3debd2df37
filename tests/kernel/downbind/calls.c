/* Calls every function that libfairlead-glibc.so implements and prints what it does, the same on every run: the output of
 * a newer glibc and of an older one with the polyfill must be equal. Sections follow the releases of glibc.
 */
#include "calls.h"

int failures;

int main(void)
{
	calls_files();
	calls_strings();
	calls_system();
	calls_threads();
	calls_numbers();
	calls_math();
	calls_bits();
	calls_moved();
	printf("end %d\n", failures);
	return failures != 0;
}
