/* Loaded into the child processes of the store's fault tests (LD_PRELOAD).
 *
 * For files below SKERRY_ROOT it counts syncs, fails the SKERRY_EIO_SYNC-th one or the
 * SKERRY_EIO_READ-th read once with EIO, and, when SKERRY_JOURNAL names a file, records every
 * write, truncation, removal, rename and completed sync there, in order. The parent builds from
 * that record what a disk may hold after a power cut. Nothing else is changed.
 *
 * A record: op (1 byte), length of the path (4), path, offset (8), length of the data (8), data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -2;
static long syncs, reads;

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int below_root(const char *path) {
    const char *root = getenv("SKERRY_ROOT");
    return root && strncmp(path, root, strlen(root)) == 0;
}

/* Path of a descriptor below the root, or 0. The shared-memory index is rebuilt, so it is left out. */
static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    if (!below_root(path)) return 0;
    return !(n > 4 && strcmp(path + n - 4, "-shm") == 0);
}

static void put(const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        long n = syscall(SYS_write, journal, at, size);
        if (n <= 0) _exit(99);
        at += n;
        size -= (size_t)n;
    }
}

static void record(char op, const char *path, uint64_t offset, const void *data, uint64_t size) {
    pthread_mutex_lock(&lock);
    if (journal == -2) {
        const char *name = getenv("SKERRY_JOURNAL");
        journal = name ? open(name, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    }
    if (journal >= 0) {
        uint32_t length = (uint32_t)strlen(path);
        put(&op, 1);
        put(&length, 4);
        put(path, length);
        put(&offset, 8);
        put(&size, 8);
        if (data && size) put(data, size);
    }
    pthread_mutex_unlock(&lock);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[4096];
    int ours = path_of(fd, path, sizeof path);
    /* An appending descriptor writes at the end, wherever its offset is. */
    off_t at = 0;
    if (ours) at = lseek(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
    ssize_t n = real(fd, data, size);
    if (ours && n > 0) record('W', path, (uint64_t)at, data, (uint64_t)n);
    return n;
}

static ssize_t positioned(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *data, size_t size, off_t at) {
    char path[4096];
    ssize_t n = real(fd, data, size, at);
    if (n > 0 && path_of(fd, path, sizeof path)) record('W', path, (uint64_t)at, data, (uint64_t)n);
    return n;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return positioned(real, fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return positioned(real, fd, data, size, at);
}

static int cut(int (*real)(int, off_t), int fd, off_t size) {
    char path[4096];
    int result = real(fd, size);
    if (result == 0 && path_of(fd, path, sizeof path)) record('T', path, (uint64_t)size, 0, 0);
    return result;
}

int ftruncate(int fd, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return cut(real, fd, size);
}

int ftruncate64(int fd, off_t size) {
    REAL(int, "ftruncate64", int, off_t);
    return cut(real, fd, size);
}

static int synced(int (*real)(int), int fd) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd);
    long fail = number("SKERRY_EIO_SYNC");
    if (fail && __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) == fail) {
        fprintf(stderr, "injected: sync %ld of %s\n", fail, path);
        errno = EIO;
        return -1;
    }
    int result = real(fd);
    if (result == 0) record('S', path, 0, 0, 0);
    return result;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(real, fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(real, fd);
}

static int fails_read(int fd) {
    char path[4096];
    long fail = number("SKERRY_EIO_READ");
    if (!fail || !path_of(fd, path, sizeof path)) return 0;
    if (__atomic_add_fetch(&reads, 1, __ATOMIC_SEQ_CST) != fail) return 0;
    fprintf(stderr, "injected: read %ld of %s\n", fail, path);
    errno = EIO;
    return 1;
}

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    return fails_read(fd) ? -1 : real(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off_t);
    return fails_read(fd) ? -1 : real(fd, data, size, at);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    return fails_read(fd) ? -1 : real(fd, data, size, at);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int result = real(path);
    if (result == 0 && below_root(path)) record('U', path, 0, 0, 0);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    int result = real(from, to);
    if (result == 0 && below_root(from)) record('R', from, 0, to, strlen(to));
    return result;
}
