/*
 * A library for LD_PRELOAD between the program and libc. Of the calls that touch something below
 * NST_SHIM_ROOT it
 *   records those that change the file system, with their data, in NST_SHIM_LOG (see replay.rs);
 *   counts those of each kind and lets the chosen one fail, be cut short, or wait:
 *     NST_SHIM_CALL    a kind: open, write, rename, ... ("" or none: count alone)
 *     NST_SHIM_NTH     which one of it, from 1
 *     NST_SHIM_ERRNO   with what it fails; 0: it is done by half
 *     NST_SHIM_STICKY  1: all later ones fail too
 *     NST_SHIM_UNTIL   in place of failing it waits until there is this file
 *     NST_SHIM_PART    calls count whose paths have this in them
 *     NST_SHIM_REPORT  where "hit KIND PATH" and, at exit, "total KIND COUNT" are written
 * Processes count by themselves; the log and the report are shared.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
  OPEN, READ, WRITE, FSYNC, TRUNCATE, RENAME, LINK, UNLINK, MKDIR, FLOCK, OPENDIR, READDIR, STAT,
  MMAP, THREAD, KINDS
};
static const char *const names[KINDS] = {
  "open", "read", "write", "fsync", "ftruncate", "rename", "link", "unlink", "mkdir", "flock",
  "opendir", "readdir", "stat", "mmap", "thread"
};

#define PATH_BYTES 4352

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *part, *gate;
static size_t root_length;
static int log_file = -1, report_file = -1;
static int chosen = -1, error_number, sticky, fired;
static long nth, counts[KINDS];

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static long number(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

static int append_to(const char *name) {
  const char *path = getenv(name);
  int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
  return path ? real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
}

static void put(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  if (real(fd, parts, count) < 0) abort();
}

static void say(const char *what, const char *name, const char *rest) {
  char line[PATH_BYTES + 64];
  struct iovec part = {line, 0};
  if (report_file < 0) return;
  part.iov_len = (size_t)snprintf(line, sizeof line, "%s %s %s\n", what, name, rest);
  put(report_file, &part, 1);
}

__attribute__((constructor)) static void begin(void) {
  const char *call = getenv("NST_SHIM_CALL");
  root = getenv("NST_SHIM_ROOT");
  root_length = root ? strlen(root) : 0;
  log_file = append_to("NST_SHIM_LOG");
  report_file = append_to("NST_SHIM_REPORT");
  nth = number("NST_SHIM_NTH");
  error_number = (int)number("NST_SHIM_ERRNO");
  sticky = (int)number("NST_SHIM_STICKY");
  part = getenv("NST_SHIM_PART");
  gate = getenv("NST_SHIM_UNTIL");
  for (int kind = 0; call && kind < KINDS; kind++) {
    if (!strcmp(call, names[kind])) chosen = kind;
  }
}

__attribute__((destructor)) static void end(void) {
  for (int kind = 0; kind < KINDS; kind++) {
    char count[32];
    snprintf(count, sizeof count, "%ld", counts[kind]);
    if (counts[kind]) say("total", names[kind], count);
  }
}

static int is_below(const char *path) {
  return root && !strncmp(path, root, root_length)
    && (path[root_length] == '/' || path[root_length] == 0);
}

/* The path of a descriptor, where it is below the root. */
static int below_by_fd(int fd, char *path) {
  char link[64];
  int kept = errno;
  if (!root) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_BYTES - 1);
  errno = kept;
  if (length <= 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* The absolute path of a name, where it is below the root. */
static int below_by_name(int folder, const char *name, char *path) {
  char link[64];
  int kept = errno;
  ssize_t length = 0;
  if (!root || !name) return 0;
  if (name[0] != '/') {
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, path, PATH_BYTES / 2);
    errno = kept;
    if (length <= 0) return 0;
    path[length++] = '/';
  }
  snprintf(path + length, PATH_BYTES - (size_t)length, "%s", name);
  return is_below(path);
}

enum outcome { DO, FAIL, HALF };

/* Counts a call; what becomes of it. Sets errno where it fails. */
static enum outcome meets(enum kind kind, const char *path) {
  if (part && !strstr(path + root_length, part)) return DO;
  pthread_mutex_lock(&lock);
  long count = ++counts[kind];
  int hit = (int)kind == chosen && (count == nth || (sticky && count > nth));
  if (hit && !fired++) say("hit", names[kind], path + root_length);
  pthread_mutex_unlock(&lock);
  if (!hit) return DO;
  if (gate) {
    struct timespec pause = {0, 2000000};
    while (access(gate, F_OK)) nanosleep(&pause, NULL);
    return DO;
  }
  if (!error_number) return HALF;
  errno = error_number;
  return FAIL;
}

/* Appends "OP, lengths, number, path, data" to the log; the lock is held. */
static void record(char op, int64_t at, const char *path, const void *data, size_t length) {
  int kept = errno;
  struct { char op[4]; uint32_t path; uint64_t data; int64_t at; } head = {{op, 0, 0, 0},
    (uint32_t)strlen(path), length, at};
  struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)data, length}};
  put(log_file, parts, 3);
  errno = kept;
}

/* Holds the lock while a call that is recorded is made: the log has the order of completion. */
static int enter(void) {
  if (log_file >= 0) pthread_mutex_lock(&lock);
  return log_file >= 0;
}

static void leave(int held) {
  int kept = errno;
  if (held) pthread_mutex_unlock(&lock);
  errno = kept;
}

ssize_t write(int fd, const void *data, size_t length) {
  REAL(ssize_t, write, int, const void *, size_t);
  char path[PATH_BYTES];
  if (!below_by_fd(fd, path)) return real(fd, data, length);
  enum outcome outcome = meets(WRITE, path);
  if (outcome == FAIL) return -1;
  if (outcome == HALF && length > 1) length /= 2;
  int held = enter();
  ssize_t done = real(fd, data, length);
  if (held && done > 0) record('W', lseek(fd, 0, SEEK_CUR) - done, path, data, (size_t)done);
  leave(held);
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  char path[PATH_BYTES];
  if (!below_by_fd(fd, path)) return real(fd, parts, count);
  /* as single writes: a caller has to take a short one */
  for (int part = 0; part < count; part++) {
    if (parts[part].iov_len) return write(fd, parts[part].iov_base, parts[part].iov_len);
  }
  return 0;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
  REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
  char path[PATH_BYTES];
  if (!below_by_fd(fd, path)) return real(fd, data, length, at);
  enum outcome outcome = meets(WRITE, path);
  if (outcome == FAIL) return -1;
  if (outcome == HALF && length > 1) length /= 2;
  int held = enter();
  ssize_t done = real(fd, data, length, at);
  if (held && done > 0) record('W', at, path, data, (size_t)done);
  leave(held);
  return done;
}

ssize_t read(int fd, void *data, size_t length) {
  REAL(ssize_t, read, int, void *, size_t);
  char path[PATH_BYTES];
  if (!below_by_fd(fd, path)) return real(fd, data, length);
  enum outcome outcome = meets(READ, path);
  if (outcome == FAIL) return -1;
  return real(fd, data, outcome == HALF && length > 1 ? length / 2 : length);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t at) {
  REAL(ssize_t, pread64, int, void *, size_t, off64_t);
  char path[PATH_BYTES];
  if (!below_by_fd(fd, path)) return real(fd, data, length, at);
  enum outcome outcome = meets(READ, path);
  if (outcome == FAIL) return -1;
  return real(fd, data, outcome == HALF && length > 1 ? length / 2 : length, at);
}

/* The calls that take a descriptor and change something: what is done, what is recorded of it. */
#define BY_FD(kind, op, at, call) \
  char path[PATH_BYTES]; \
  if (!below_by_fd(fd, path)) return call; \
  if (meets(kind, path) != DO) return -1; \
  int held = enter(); \
  int done = call; \
  if (held && !done) record(op, at, path, "", 0); \
  leave(held); \
  return done

int fsync(int fd) {
  REAL(int, fsync, int);
  BY_FD(FSYNC, 'S', 0, real(fd));
}

int fdatasync(int fd) {
  REAL(int, fdatasync, int);
  BY_FD(FSYNC, 'S', 0, real(fd));
}

int ftruncate64(int fd, off64_t length) {
  REAL(int, ftruncate64, int, off64_t);
  BY_FD(TRUNCATE, 'T', length, real(fd, length));
}

int ftruncate(int fd, off_t length) {
  REAL(int, ftruncate, int, off_t);
  BY_FD(TRUNCATE, 'T', length, real(fd, length));
}

/* The calls that take a name and change something. */
#define BY_NAME(kind, op, folder, name, call) \
  char path[PATH_BYTES]; \
  if (!below_by_name(folder, name, path)) return call; \
  if (meets(kind, path) != DO) return -1; \
  int held = enter(); \
  int done = call; \
  if (held && !done) record(op, 0, path, "", 0); \
  leave(held); \
  return done

int unlink(const char *name) {
  REAL(int, unlink, const char *);
  BY_NAME(UNLINK, 'U', AT_FDCWD, name, real(name));
}

int unlinkat(int folder, const char *name, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  BY_NAME(UNLINK, 'U', folder, name, real(folder, name, flags));
}

int rmdir(const char *name) {
  REAL(int, rmdir, const char *);
  BY_NAME(UNLINK, 'U', AT_FDCWD, name, real(name));
}

int mkdir(const char *name, mode_t mode) {
  REAL(int, mkdir, const char *, mode_t);
  BY_NAME(MKDIR, 'M', AT_FDCWD, name, real(name, mode));
}

int mkdirat(int folder, const char *name, mode_t mode) {
  REAL(int, mkdirat, int, const char *, mode_t);
  BY_NAME(MKDIR, 'M', folder, name, real(folder, name, mode));
}

/* The calls that take two names. */
#define BY_NAMES(kind, op, folder, from, folder_to, to, call) \
  char path[PATH_BYTES], target[PATH_BYTES]; \
  int is_from = below_by_name(folder, from, path), is_to = below_by_name(folder_to, to, target); \
  if (!is_from && !is_to) return call; \
  if (meets(kind, target) != DO) return -1; \
  int held = enter(); \
  int done = call; \
  if (held && !done) record(op, 0, path, target, strlen(target)); \
  leave(held); \
  return done

int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  BY_NAMES(RENAME, 'R', AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}

int renameat(int a, const char *from, int b, const char *to) {
  REAL(int, renameat, int, const char *, int, const char *);
  BY_NAMES(RENAME, 'R', a, from, b, to, real(a, from, b, to));
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  REAL(int, renameat2, int, const char *, int, const char *, unsigned);
  BY_NAMES(RENAME, 'R', a, from, b, to, real(a, from, b, to, flags));
}

int link(const char *from, const char *to) {
  REAL(int, link, const char *, const char *);
  BY_NAMES(LINK, 'L', AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(int, linkat, int, const char *, int, const char *, int);
  BY_NAMES(LINK, 'L', a, from, b, to, real(a, from, b, to, flags));
}

/* An open is recorded where it may make or empty the file; 'T' of length 0 empties it. */
#define OPEN_AS(folder, name, call) \
  char path[PATH_BYTES]; \
  mode_t mode = 0; \
  if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  } \
  if (!below_by_name(folder, name, path)) return call; \
  if (meets(OPEN, path) != DO) return -1; \
  int held = enter(); \
  int fd = call; \
  if (held && fd >= 0 && flags & O_CREAT) record('C', 0, path, "", 0); \
  if (held && fd >= 0 && flags & O_TRUNC) record('T', 0, path, "", 0); \
  leave(held); \
  return fd

int open64(const char *name, int flags, ...) {
  REAL(int, open64, const char *, int, ...);
  OPEN_AS(AT_FDCWD, name, real(name, flags, mode));
}

int open(const char *name, int flags, ...) {
  REAL(int, open, const char *, int, ...);
  OPEN_AS(AT_FDCWD, name, real(name, flags, mode));
}

int openat64(int folder, const char *name, int flags, ...) {
  REAL(int, openat64, int, const char *, int, ...);
  OPEN_AS(folder, name, real(folder, name, flags, mode));
}

int openat(int folder, const char *name, int flags, ...) {
  REAL(int, openat, int, const char *, int, ...);
  OPEN_AS(folder, name, real(folder, name, flags, mode));
}

int flock(int fd, int operation) {
  REAL(int, flock, int, int);
  char path[PATH_BYTES];
  return below_by_fd(fd, path) && meets(FLOCK, path) != DO ? -1 : real(fd, operation);
}

DIR *opendir(const char *name) {
  REAL(DIR *, opendir, const char *);
  char path[PATH_BYTES];
  return below_by_name(AT_FDCWD, name, path) && meets(OPENDIR, path) != DO ? NULL : real(name);
}

struct dirent64 *readdir64(DIR *folder) {
  REAL(struct dirent64 *, readdir64, DIR *);
  char path[PATH_BYTES];
  return below_by_fd(dirfd(folder), path) && meets(READDIR, path) != DO ? NULL : real(folder);
}

int statx(int folder, const char *restrict name, int flags, unsigned mask,
          struct statx *restrict into) {
  REAL(int, statx, int, const char *, int, unsigned, struct statx *);
  char path[PATH_BYTES];
  int is_fd = (flags & AT_EMPTY_PATH) && !*name;
  int below = is_fd ? below_by_fd(folder, path) : below_by_name(folder, name, path);
  return below && meets(STAT, path) != DO ? -1 : real(folder, name, flags, mask, into);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  REAL(void *, mmap64, void *, size_t, int, int, int, off64_t);
  char path[PATH_BYTES];
  if (fd >= 0 && below_by_fd(fd, path) && meets(MMAP, path) != DO) return MAP_FAILED;
  return real(at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
  REAL(void *, mmap, void *, size_t, int, int, int, off_t);
  char path[PATH_BYTES];
  if (fd >= 0 && below_by_fd(fd, path) && meets(MMAP, path) != DO) return MAP_FAILED;
  return real(at, length, protection, flags, fd, offset);
}

/* Threads are counted wherever they come from. */
int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
                   void *(*start)(void *), void *restrict argument) {
  REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (root && meets(THREAD, root) != DO) return error_number;
  return real(thread, attributes, start, argument);
}
