/* select(2) that begins a while after it was called. For LD_PRELOAD: what comes in that time, a signal
 * say, comes before the wait has begun. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/select.h>
#include <time.h>

int select(int count, fd_set *reads, fd_set *writes, fd_set *others, struct timeval *limit)
{
    int (*real)(int, fd_set *, fd_set *, fd_set *, struct timeval *) = dlsym(RTLD_NEXT, "select");
    struct timespec left = {0, 300000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        ;
    return real(count, reads, writes, others, limit);
}
