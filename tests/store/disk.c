/* A disk that fails: loaded before libc, it sees every call on files below KODO_DISK_ROOT.
 *
 * KODO_DISK_LOG   a file that gets each change, sync and acknowledgement, in the order in which they
 *                 happened; an acknowledgement is a line on standard output that begins with "ack".
 *                 A record: 1 byte kind, 2 bytes length of the path, path, 8 bytes offset, 8 bytes
 *                 length of the data, data; numbers in the order of the machine.
 * KODO_DISK_FAIL  "NUMBER KIND": the call of this number fails, counted from 1 among the calls that
 *                 this kind concerns: eio (all), enospc (what needs room), full (the same, and every
 *                 one after it), eintr and short (reads and writes).
 * KODO_DISK_FIRED a file that is created when a call fails so.
 * KODO_DISK_ROOM  as long as this file is there, what would make the files in the folder larger than the
 *                 number of bytes in it, all together, fails with ENOSPC.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FILES 4096
#define REAL(name) ((__typeof__(&name))real(#name))

enum need { READS, WRITES, ROOM, SYNCS };

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char *paths[FILES];
static const char *root, *room, *fired, *kind;
static char *cached[FILES];
static long fail_at, calls;
static int log_fd = -1;

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *fail = getenv("KODO_DISK_FAIL"), *log = getenv("KODO_DISK_LOG");
    root = getenv("KODO_DISK_ROOT");
    room = getenv("KODO_DISK_ROOM");
    fired = getenv("KODO_DISK_FIRED");
    if (fail) {
        char *rest;
        fail_at = strtol(fail, &rest, 10);
        kind = rest + 1;
    }
    if (log) {
        log_fd = REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0) abort();
    }
}

static const char *path_of(int fd) { return fd >= 0 && fd < FILES ? paths[fd] : NULL; }

static int below_root(const char *path) {
    return root && path && !strncmp(path, root, strlen(root));
}

static void put(const void *data, size_t length) {
    const char *at = data;
    while (length) {
        ssize_t done = REAL(write)(log_fd, at, length);
        if (done <= 0) abort();
        at += done;
        length -= done;
    }
}

static void record(char what, const char *path, uint64_t offset, const void *data, uint64_t length) {
    if (log_fd < 0) return;
    uint16_t path_length = strlen(path);
    put(&what, 1);
    put(&path_length, 2);
    put(path, path_length);
    put(&offset, 8);
    put(&length, 8);
    if (data) put(data, length);
}

/* How much the files in the folder may grow, or LONG_MAX. */
static long left(void) {
    FILE *file = room ? fopen(room, "r") : NULL;
    if (!file) return LONG_MAX;
    long most = LONG_MAX;
    if (fscanf(file, "%ld", &most) != 1) most = LONG_MAX;
    fclose(file);
    DIR *folder = opendir(root);
    if (!folder) return most;
    for (struct dirent *item; (item = readdir(folder));) {
        struct stat about;
        if (!fstatat(dirfd(folder), item->d_name, &about, 0) && S_ISREG(about.st_mode)) most -= about.st_size;
    }
    closedir(folder);
    return most;
}

/* -1 with errno if there is no room for a file to be as long. */
static int fits(int fd, off64_t length) {
    struct stat about;
    if (!room || fstat(fd, &about) || length <= about.st_size) return 0;
    if (length - about.st_size <= left()) return 0;
    errno = ENOSPC;
    return -1;
}

static int concerns(enum need need) {
    if (!strcmp(kind, "eio")) return 1;
    if (!strcmp(kind, "enospc") || !strcmp(kind, "full")) return need == ROOM || need == WRITES;
    return need == READS || need == WRITES;
}

/* 0: go on; -1: fail with errno; 1: do half of it. */
static int fails(enum need need) {
    if (!kind || !concerns(need)) return 0;
    calls++;
    if (calls < fail_at || (calls > fail_at && strcmp(kind, "full"))) return 0;
    if (fired && calls == fail_at) {
        int fd = REAL(open64)(fired, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0) REAL(close)(fd);
    }
    if (!strcmp(kind, "short")) return 1;
    errno = !strcmp(kind, "eio") ? EIO : !strcmp(kind, "eintr") ? EINTR : ENOSPC;
    return -1;
}

/* A file that was read to its end is in memory: reading it again does not reach the disk. */
static int is_cached(const char *path, int end) {
    for (int i = 0; i < FILES; i++) {
        if (!cached[i]) {
            if (end) cached[i] = strdup(path);
            return end;
        }
        if (!strcmp(cached[i], path)) return 1;
    }
    return 0;
}

static int fails_to_read(const char *path) {
    if (kind && !strcmp(kind, "eio") && is_cached(path, 0)) return 0;
    return fails(READS);
}

static int open_any(const char *path, int flags, mode_t mode) {
    int fd = -1;
    pthread_mutex_lock(&order);
    if (!below_root(path) || fails(flags & O_CREAT ? ROOM : READS) >= 0) {
        int is_new = (flags & O_CREAT) && below_root(path) && REAL(access)(path, F_OK);
        fd = REAL(open64)(path, flags, mode);
        if (fd >= 0 && fd < FILES) {
            free(paths[fd]);
            paths[fd] = below_root(path) ? strdup(path) : NULL;
        }
        if (fd >= 0 && is_new) record('C', path, 0, NULL, 0);
        if (fd >= 0 && !is_new && (flags & O_TRUNC) && below_root(path)) record('T', path, 0, NULL, 0);
    }
    pthread_mutex_unlock(&order);
    return fd;
}

static mode_t mode_of(int flags, va_list *rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(*rest, mode_t) : 0;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, &rest);
    va_end(rest);
    return open_any(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, &rest);
    va_end(rest);
    return open_any(path, flags, mode);
}

int close(int fd) {
    pthread_mutex_lock(&order);
    if (path_of(fd)) {
        free(paths[fd]);
        paths[fd] = NULL;
    }
    int result = REAL(close)(fd);
    pthread_mutex_unlock(&order);
    return result;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (fd == 1 && length > 3 && !memcmp(data, "ack", 3)) {
        pthread_mutex_lock(&order);
        record('A', "", 0, data, length);
        ssize_t done = REAL(write)(fd, data, length);
        pthread_mutex_unlock(&order);
        return done;
    }
    if (!path_of(fd)) return REAL(write)(fd, data, length);
    pthread_mutex_lock(&order);
    ssize_t done = -1;
    uint64_t offset = lseek(fd, 0, SEEK_CUR);
    int fail = fits(fd, offset + length) < 0 ? -1 : fails(WRITES);
    if (fail >= 0) {
        done = REAL(write)(fd, data, fail ? (length + 1) / 2 : length);
        if (done > 0) record('W', paths[fd], offset, data, done);
    }
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (!path_of(fd)) return REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&order);
    ssize_t done = -1;
    int fail = fits(fd, offset + length) < 0 ? -1 : fails(WRITES);
    if (fail >= 0) {
        done = REAL(pwrite64)(fd, data, fail ? (length + 1) / 2 : length, offset);
        if (done > 0) record('W', paths[fd], offset, data, done);
    }
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t read(int fd, void *data, size_t length) {
    if (!path_of(fd)) return REAL(read)(fd, data, length);
    pthread_mutex_lock(&order);
    int fail = fails_to_read(paths[fd]);
    ssize_t done = fail < 0 ? -1 : REAL(read)(fd, data, fail ? (length + 1) / 2 : length);
    if (!done && length) is_cached(paths[fd], 1);
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    if (!path_of(fd)) return REAL(pread64)(fd, data, length, offset);
    pthread_mutex_lock(&order);
    int fail = fails_to_read(paths[fd]);
    pthread_mutex_unlock(&order);
    return fail < 0 ? -1 : REAL(pread64)(fd, data, fail ? (length + 1) / 2 : length, offset);
}

#define SYNC(name, call)                                         \
    if (!path_of(fd)) return REAL(name) call;                    \
    pthread_mutex_lock(&order);                                  \
    int result = fails(SYNCS) < 0 ? -1 : REAL(name) call;        \
    if (!result) record('S', paths[fd], 0, NULL, 0);             \
    pthread_mutex_unlock(&order);                                \
    return result;

int fsync(int fd) { SYNC(fsync, (fd)) }
int fdatasync(int fd) { SYNC(fdatasync, (fd)) }

/* Makes nothing durable: it leaves out the metadata and the cache of the drive. */
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
    if (!path_of(fd)) return REAL(sync_file_range)(fd, offset, length, flags);
    pthread_mutex_lock(&order);
    int result = fails(SYNCS) < 0 ? -1 : REAL(sync_file_range)(fd, offset, length, flags);
    pthread_mutex_unlock(&order);
    return result;
}

int ftruncate64(int fd, off64_t length) {
    if (!path_of(fd)) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&order);
    int result = fits(fd, length) < 0 || fails(ROOM) < 0 ? -1 : REAL(ftruncate64)(fd, length);
    if (!result) record('T', paths[fd], length, NULL, 0);
    pthread_mutex_unlock(&order);
    return result;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (!path_of(fd)) return REAL(fallocate64)(fd, mode, offset, length);
    pthread_mutex_lock(&order);
    int result = fits(fd, offset + length) < 0 || fails(ROOM) < 0 ? -1 : REAL(fallocate64)(fd, mode, offset, length);
    pthread_mutex_unlock(&order);
    return result;
}

int rename(const char *from, const char *to) {
    if (!below_root(from)) return REAL(rename)(from, to);
    pthread_mutex_lock(&order);
    int result = fails(ROOM) < 0 ? -1 : REAL(rename)(from, to);
    if (!result) record('R', from, 0, to, strlen(to));
    pthread_mutex_unlock(&order);
    return result;
}

int unlink(const char *path) {
    if (!below_root(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&order);
    int result = fails(SYNCS) < 0 ? -1 : REAL(unlink)(path);
    if (!result) record('U', path, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return result;
}
