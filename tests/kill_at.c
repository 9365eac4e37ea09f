/* Kills a process at a step: before or after one of its system calls.
 *
 *   kill_at N PROGRAM ARGUMENT…   starts a program; its steps count from its first write to standard
 *                                 output on, in all its threads
 *   kill_at N -THREAD             the same with a thread that runs, from now on, in it alone
 *
 * Ends with 0 when it has killed it, and with 3 when it ended by itself. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h>

static const long options =
    PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;

_Noreturn static void fail(const char *what) {
    perror(what);
    exit(1);
}

static bool says_something(pid_t thread) {
    struct ptrace_syscall_info info;
    memset(&info, 0, sizeof info);
    return ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) > 0 &&
           info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_write &&
           info.entry.args[0] == STDOUT_FILENO;
}

static pid_t start(char **command) {
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        raise(SIGSTOP);
        execv(command[0], command);
        _exit(127);
    }
    int status;
    if (waitpid(child, &status, WUNTRACED) != child ||
        ptrace(PTRACE_SEIZE, child, NULL, options) < 0)
        fail("ptrace");
    kill(child, SIGCONT);
    return child;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    long left = atol(argv[1]);
    bool counts = argv[2][0] == '-';
    pid_t victim = counts ? (pid_t)atoi(argv[2] + 1) : start(argv + 2);
    /* (One thread only: others of the process are not stopped.) */
    if (counts && ptrace(PTRACE_SEIZE, victim, NULL, PTRACE_O_TRACESYSGOOD) < 0)
        fail("ptrace");
    if (ptrace(PTRACE_INTERRUPT, victim, NULL, NULL) < 0)
        fail("ptrace");
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0)
            return errno == ECHILD ? 3 : 1;
        if (!WIFSTOPPED(status))
            continue;
        int number = WSTOPSIG(status), event = status >> 16, pass = 0;
        if (number == (SIGTRAP | 0x80)) {
            counts |= says_something(thread);
            if (counts && left-- <= 0)
                break;
        } else if (!event)
            pass = number;
        ptrace(PTRACE_SYSCALL, thread, NULL, (void *)(intptr_t)pass);
    }
    if (kill(victim, SIGKILL) < 0)
        fail("kill");
    while (waitpid(-1, NULL, __WALL) > 0)
        continue;
    return 0;
}
