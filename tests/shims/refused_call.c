/* The system call that REFUSED names fails as it would on another machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int refused(const char *name) { return strcmp(getenv("REFUSED"), name) == 0; }

int socket(int domain, int type, int protocol) {
    int (*real)(int, int, int) = dlsym(RTLD_NEXT, "socket");
    if (refused("ipv6") && domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }
    if (refused("socket")) { errno = EPERM; return -1; }
    return real(domain, type, protocol);
}
int flock(int fd, int operation) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (refused("flock")) { errno = ENOLCK; return -1; }
    return real(fd, operation);
}
int eventfd(unsigned int value, int flags) {
    int (*real)(unsigned int, int) = dlsym(RTLD_NEXT, "eventfd");
    if (refused("eventfd")) { errno = ENODEV; return -1; }
    return real(value, flags);
}
int epoll_create1(int flags) {
    int (*real)(int) = dlsym(RTLD_NEXT, "epoll_create1");
    if (refused("epoll_create1")) { errno = ENOMEM; return -1; }
    return real(flags);
}
int listen(int fd, int backlog) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "listen");
    if (refused("listen")) { errno = EOPNOTSUPP; return -1; }
    return real(fd, backlog);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    real = dlsym(RTLD_NEXT, "pthread_create");
    if (refused("pthread_create")) return EAGAIN;
    return real(thread, how, run, with);
}
