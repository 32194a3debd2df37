/* What Python sees of the C sources; read by build.py. Keep each group beside the header that it mirrors. */

/* files.h */
int files_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);
int files_open_in_root(int rootfd, const char *path, int flags, unsigned int mode);
int files_mkdirs_in_root(int rootfd, const char *path, unsigned int mode);
