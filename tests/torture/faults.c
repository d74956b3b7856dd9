/* Faults at chosen system calls, for LD_PRELOAD: what a kill, a full disk or a vanished folder does at each place that writes.
 *
 * Calls that change files under one folder are counted; the one whose number is armed is killed at (SIGKILL, before or in the
 * middle of the call) or fails with an errno, once or from then on. Everything else passes through.
 *
 *   faults_arm(folder, at, action, error, lasting)   count from 0 again; at = 0: count alone
 *   faults_trace(fd)                                 write the name and path of each counted call to fd, a line each
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { KILL = 0, TEAR = 1, FAIL = 2 }; /* TEAR: half of the bytes are written, then SIGKILL; as KILL where nothing is */

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static long counted, armed_at;
static int armed_action, armed_errno, lasting;
static int trace_fd = -1;

void faults_arm(const char *under, long at, int action, int error, int stays) {
    pthread_mutex_lock(&guard);
    snprintf(folder, sizeof folder, "%s", under);
    folder_length = strlen(folder);
    counted = 0, armed_at = at, armed_action = action, armed_errno = error, lasting = stays;
    pthread_mutex_unlock(&guard);
}

void faults_trace(int fd) { trace_fd = fd; }

static int inside(const char *path) {
    return folder_length && strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || !path[folder_length]);
}

static const char *place_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length > 0 ? length : 0] = 0;
    return buffer;
}

static const char *absolute(int dirfd, const char *path, char *buffer) {
    if (path[0] == '/') return path;
    char base[PATH_MAX];
    if (dirfd == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        place_of(dirfd, base);
    }
    snprintf(buffer, PATH_MAX, "%.2000s/%.2000s", base, path);
    return buffer;
}

/* What to do at a call on `path`: -1 pass, else the action; counts it. */
static int decide(const char *call, const char *path) {
    if (!folder_length || !inside(path)) return -1;
    int saved = errno, decision = -1;
    pthread_mutex_lock(&guard);
    counted++;
    if (trace_fd >= 0) dprintf(trace_fd, "%s %s\n", call, path + folder_length);
    if (armed_at && (counted == armed_at || (lasting && counted > armed_at))) decision = armed_action;
    pthread_mutex_unlock(&guard);
    errno = saved;
    return decision;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define FAULT(call, path) \
    do { \
        int decision_ = decide(call, path); \
        if (decision_ == FAIL) { errno = armed_errno; return -1; } \
        if (decision_ >= 0) die(); \
    } while (0)

static int opens_to_write(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        char buffer[PATH_MAX]; \
        if (folder_length && opens_to_write(flags)) FAULT("open", absolute(AT_FDCWD, path, buffer)); \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int dirfd, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        char buffer[PATH_MAX]; \
        if (folder_length && opens_to_write(flags)) FAULT("open", absolute(dirfd, path, buffer)); \
        return real(dirfd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char buffer[PATH_MAX];
    if (folder_length) {
        int decision = decide("write", place_of(fd, buffer));
        if (decision == FAIL) { errno = armed_errno; return -1; }
        if (decision == TEAR) real(fd, data, size / 2);
        if (decision >= 0) die();
    }
    return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char buffer[PATH_MAX];
    if (folder_length) FAULT("write", place_of(fd, buffer));
    return real(fd, parts, count);
}

#define PWRITE(name, offset_t) \
    ssize_t name(int fd, const void *data, size_t size, offset_t offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_t); \
        char buffer[PATH_MAX]; \
        if (folder_length) FAULT("write", place_of(fd, buffer)); \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FD(name, label) \
    int name(int fd) { \
        REAL(int, #name, int); \
        char buffer[PATH_MAX]; \
        if (folder_length) FAULT(label, place_of(fd, buffer)); \
        return real(fd); \
    }
ON_FD(fsync, "sync")
ON_FD(fdatasync, "sync")

#define TRUNCATE(name, offset_t) \
    int name(int fd, offset_t length) { \
        REAL(int, #name, int, offset_t); \
        char buffer[PATH_MAX]; \
        if (folder_length) FAULT("truncate", place_of(fd, buffer)); \
        return real(fd, length); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ON_PATH(name, ...) \
    char buffer[PATH_MAX]; \
    if (folder_length) FAULT(name, absolute(__VA_ARGS__, buffer))

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    ON_PATH("rename", AT_FDCWD, to);
    return real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    ON_PATH("rename", to_dir, to);
    return real(from_dir, from, to_dir, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    ON_PATH("unlink", AT_FDCWD, path);
    return real(path);
}

int unlinkat(int dirfd, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    ON_PATH("unlink", dirfd, path);
    return real(dirfd, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    ON_PATH("mkdir", AT_FDCWD, path);
    return real(path, mode);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    ON_PATH("rmdir", AT_FDCWD, path);
    return real(path);
}

int chmod(const char *path, mode_t mode) {
    REAL(int, "chmod", const char *, mode_t);
    ON_PATH("chmod", AT_FDCWD, path);
    return real(path, mode);
}
