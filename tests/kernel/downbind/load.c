/* Opens every file that is named, "g:" in front for RTLD_GLOBAL, and says which cannot be. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **words)
{
	int i, failed = 0;

	for (i = 1; i < count; i++) {
		int everywhere = !strncmp(words[i], "g:", 2);

		if (!dlopen(words[i] + 2 * everywhere, RTLD_NOW | (everywhere ? RTLD_GLOBAL : RTLD_LOCAL))) {
			printf("%s\n", dlerror());
			failed++;
		}
	}
	printf("%d of %d\n", count - 1 - failed, count - 1);
	return failed != 0;
}
