#include "descriptor.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

uint64_t aliquot_descriptor_key(int fd) {
    struct stat status;
    /* One device file behind every export tells nothing. */
    if (fd < 0 || fstat(fd, &status) < 0 || S_ISCHR(status.st_mode))
        return 0;
    uint64_t key = (uint64_t)status.st_dev * 0x9e3779b97f4a7c15ull ^ (uint64_t)status.st_ino;
    return (key ^ key >> 29) * 0xbf58476d1ce4e5b9ull | 1;
}

static int find(uint64_t key) {
    DIR *folder = opendir("/proc/self/fd");
    int found = -1;
    for (const struct dirent *entry; folder && found < 0 && (entry = readdir(folder));) {
        int fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
        if (aliquot_descriptor_key(fd) == key)
            found = fd;
    }
    if (folder)
        closedir(folder);
    return found;
}

bool aliquot_descriptor_open(int *fd, uint64_t key) {
    if (*fd < 0)
        return false;
    int saved = errno;
    if (aliquot_descriptor_key(*fd) != key)
        *fd = find(key);
    errno = saved;
    return *fd >= 0;
}
