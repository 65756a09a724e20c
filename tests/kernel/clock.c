/* ovs-vswitchd counts its processors at most every ten seconds of the monotonic clock, and takes "not yet" for none:
 * started in the first ten seconds after a boot it has no thread for upcalls, for good. Preloaded into it, this
 * moves that clock on. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_MONOTONIC) {
        now->tv_sec += 60;
    }
    return failed;
}
