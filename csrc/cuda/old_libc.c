/* Running on an older C library than the one we are built with: see old_libc.h.
 *
 * stat and fstat were inline functions until glibc 2.33, so that there is no older version of them
 * to ask for. The linker (--wrap) sends our calls of them here.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int __wrap_fstat(int fd, struct stat *status);
int __wrap_stat(const char *path, struct stat *status);

/* On 64-bit machines the kernel's struct stat is the C library's. */
int __wrap_fstat(int fd, struct stat *status) { return (int)syscall(SYS_fstat, fd, status); }

int __wrap_stat(const char *path, struct stat *status) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, 0);
}
