/* Running on an older C library than the one we are built with.
 *
 * The shim is loaded into images of any age. A few functions got a new symbol version when glibc
 * 2.33 and 2.34 moved them, which alone would keep the shim out of every older image. The linker
 * (--wrap) sends our calls of them here. tests/test_shim_file.py names what else would need it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif

int __wrap_fstat(int fd, struct stat *status);
int __wrap_stat(const char *path, struct stat *status);
int __wrap_pthread_once(pthread_once_t *once, void (*call)(void));

/* On 64-bit machines the kernel's struct stat is the C library's. */
int __wrap_fstat(int fd, struct stat *status) { return (int)syscall(SYS_fstat, fd, status); }

int __wrap_stat(const char *path, struct stat *status) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

/* In libpthread before 2.34, which the real driver needs and so brings along. */
int old_pthread_once(pthread_once_t *once, void (*call)(void));
__asm__(".symver old_pthread_once, pthread_once@" OLDEST);

int __wrap_pthread_once(pthread_once_t *once, void (*call)(void)) {
    return old_pthread_once(once, call);
}
