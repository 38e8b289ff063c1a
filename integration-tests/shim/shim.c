// Laid over libc in the processes of a node under test (LD_PRELOAD), to bring about what would take too long to wait for, or
// happens too quickly to be met:
//
// - SHIM_CLOCK names a file: the monotonic clock is ahead by as many seconds as the file has bytes.
// - SHIM_GATE names a FIFO: while it is there, a sync in any process but the first waits until somebody opens it for
//   writing.
//
// The programs under test are those that users run.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pid_t first;

__attribute__((constructor)) static void remember_first(void) { first = getpid(); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("SHIM_CLOCK");
    struct stat file;
    if (result == 0 && clock == CLOCK_MONOTONIC && path != NULL && stat(path, &file) == 0)
        time->tv_sec += file.st_size;
    return result;
}

static void pass_gate(void) {
    const char *path = getenv("SHIM_GATE");
    if (path == NULL || getpid() == first)
        return;
    int gate = open(path, O_RDONLY | O_CLOEXEC);
    if (gate >= 0)
        close(gate);
}

int fsync(int file) {
    pass_gate();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    pass_gate();
    return (int)syscall(SYS_fdatasync, file);
}
