// An LD_PRELOAD library that makes one call on a file fail.
//
//   WUNENG_FAULT_PATH   calls on paths that contain this text are counted
//   WUNENG_FAULT_NOT    but not those that contain this one
//   WUNENG_FAULT_AT     the number of the call that fails, from 1; 0: none
//   WUNENG_FAULT_ERROR  its errno; 0: a write takes half of the bytes
//   WUNENG_FAULT_LOG    a file to which each counted call is appended: "NAME PATH"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int count = 0;

// Whether this call is the one that fails; errno is set then.
static int fails(const char* call, const char* path) {
  const char *part = getenv("WUNENG_FAULT_PATH"), *not = getenv("WUNENG_FAULT_NOT");
  if (!part || !path || !strstr(path, part) || (not && strstr(path, not))) return 0;
  pthread_mutex_lock(&lock);
  const int number = ++count;
  const char* log = getenv("WUNENG_FAULT_LOG");
  if (log) {
    char line[4400];
    const int n = snprintf(line, sizeof line, "%s %s\n", call, path);
    const int fd = (int)REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || REAL(write)(fd, line, (size_t)n) != n) abort();
    REAL(close)(fd);
  }
  pthread_mutex_unlock(&lock);
  const char* at = getenv("WUNENG_FAULT_AT");
  const char* error = getenv("WUNENG_FAULT_ERROR");
  if (!at || atoi(at) != number) return 0;
  errno = error ? atoi(error) : ENOSPC;
  return 1;
}

static const char* name_of(int fd, char* into) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, into, 4095);
  into[n < 0 ? 0 : n] = 0;
  return into;
}

#define FAIL_ON_FD(call, fd)                                 \
  char path_[4096];                                          \
  if (fails(call, name_of(fd, path_))) return -1
#define WRITE(call, args, half)                              \
  char path_[4096];                                          \
  if (fails(#call, name_of(fd, path_))) {                    \
    if (errno) return -1;                                    \
    return REAL(call) half;                                  \
  }                                                          \
  return REAL(call) args

ssize_t write(int fd, const void* b, size_t n) { WRITE(write, (fd, b, n), (fd, b, (n + 1) / 2)); }
ssize_t pwrite(int fd, const void* b, size_t n, off_t o) {
  WRITE(pwrite, (fd, b, n, o), (fd, b, (n + 1) / 2, o));
}
ssize_t pwrite64(int fd, const void* b, size_t n, off64_t o) {
  WRITE(pwrite64, (fd, b, n, o), (fd, b, (n + 1) / 2, o));
}
int fsync(int fd) {
  FAIL_ON_FD("fsync", fd);
  return REAL(fsync)(fd);
}
int close(int fd) {
  char path[4096];
  const int writable = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
  const int failing = writable && fails("close", name_of(fd, path));
  const int error = errno, status = REAL(close)(fd);
  if (!failing) return status;
  errno = error;
  return -1;
}
int ftruncate(int fd, off_t n) {
  FAIL_ON_FD("ftruncate", fd);
  return REAL(ftruncate)(fd, n);
}
int rename(const char* a, const char* b) { return fails("rename", a) ? -1 : REAL(rename)(a, b); }
int unlink(const char* p) { return fails("unlink", p) ? -1 : REAL(unlink)(p); }
int unlinkat(int d, const char* p, int f) {
  char path[4096];
  return fails("unlink", *p == '/' ? p : name_of(d, path)) ? -1 : REAL(unlinkat)(d, p, f);
}
int remove(const char* p) { return fails("unlink", p) ? -1 : REAL(remove)(p); }
int mkdir(const char* p, mode_t m) { return fails("mkdir", p) ? -1 : REAL(mkdir)(p, m); }

#define OPEN(name)                                                  \
  int name(const char* p, int flags, ...) {                         \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                   \
    if (flags & O_CREAT && fails("create", p)) return -1;           \
    return REAL(name)(p, flags, mode);                              \
  }
OPEN(open)
OPEN(open64)
