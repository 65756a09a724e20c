/* A user-mode Linux 6.1 keeps 2696 bytes of a processor's extended state. Where the processor has more (AMX: 11008) its
 * kernel refuses to set less than all of it, and the guest panics at once. Preloaded into the guest, this fills up
 * what is set: with the initial state of what the guest, which asks for no AMX, never uses. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PLENTY = 65536, COMPONENTS = 512 };

static long set(long pid, void *kind, const struct iovec *given) {
    static uint64_t state[PLENTY / sizeof(uint64_t)];
    struct iovec whole = {state, PLENTY}; /* the kernel takes no more than there is */
    if (given->iov_len > PLENTY) return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, kind, given);
    memcpy(state, given->iov_base, given->iov_len);
    state[COMPONENTS / sizeof(uint64_t)] &= ~(3ULL << 17); /* XSTATE_BV: AMX's two are beyond what was kept */
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *), *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) return set(pid, address, data);
    if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) { /* libc returns what was read */
        long word;
        long failed = syscall(SYS_ptrace, (long)request, pid, address, &word);
        return failed ? failed : word;
    }
    return syscall(SYS_ptrace, (long)request, pid, address, data);
}
