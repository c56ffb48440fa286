/* Reads of the node's files fail with the error FAILS_WITH while the file FAILS_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t pread64(int fd, void *area, size_t size, off_t offset) {
    char link[64], name[4096] = {0};
    ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread64");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (access(getenv("FAILS_WHILE"), F_OK) == 0 && readlink(link, name, sizeof name - 1) > 0
        && strstr(name, "/hourly/")) {
        errno = atoi(getenv("FAILS_WITH"));
        return -1;
    }
    return real(fd, area, size, offset);
}
ssize_t pread(int fd, void *area, size_t size, off_t offset) { return pread64(fd, area, size, offset); }
