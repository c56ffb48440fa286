/* What a container, a sandbox or an old kernel may not have. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <sys/types.h>
int inotify_init1(int flags) { (void)flags; errno = ENOSYS; return -1; }
int memfd_create(const char *name, unsigned flags) { (void)name; (void)flags; errno = EPERM; return -1; }
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) { errno = EPERM; return -1; }
int setpriority(int which, unsigned who, int value) { errno = EPERM; return -1; }
int prctl(int option, ...) { (void)option; errno = ENOSYS; return -1; }
int madvise(void *at, size_t size, int advice) { errno = ENOSYS; return -1; }
