/* Every fsync fails with the number FSYNC_ERRNO. */
#include <errno.h>
#include <stdlib.h>
int fsync(int fd) { (void)fd; errno = atoi(getenv("FSYNC_ERRNO")); return -1; }
int fdatasync(int fd) { return fsync(fd); }
