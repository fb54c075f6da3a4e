"""Faults in a child process: a kill, a full disk or an I/O error at the n-th call that changes files below a folder.

The calls are counted, and made to fail, by a small C library that the dynamic linker loads before all others
(``LD_PRELOAD``), so that Python, torch, safetensors and llama.cpp all meet the fault where they would meet a real one.
A process that runs can also be given a full disk and a clock that jumps, from another one: see ``Control``.
"""

import ctypes
import errno
import mmap
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from delrec_lite.errors import DelrecError

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;
static long first;
static int error;
static char folder[PATH_MAX];

void delrec_arm(const char *below, long at, int number) {
    snprintf(folder, sizeof folder, "%s/", below);
    first = at;
    error = number;
    atomic_store(&calls, 0);
}

long delrec_calls(void) { return atomic_load(&calls); }

/* Another process changes this: an error of all changes below a folder, and the seconds that the clock is ahead. */
struct control { volatile int64_t error, ahead; char folder[PATH_MAX]; };
static const struct control *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("DELREC_FAULTS");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(fd);
}

/* A kill needs no number. A full disk stays full, but files can be removed from it; an I/O error comes once. */
static int fails(const char *path, int removes) {
    if (control && control->error && !removes && !strncmp(path, control->folder, strlen(control->folder))) {
        errno = (int)control->error;
        return 1;
    }
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (!first || n < first) return 0;
    if (!error) kill(getpid(), SIGKILL);
    if (error == ENOSPC ? removes : n > first) return 0;
    errno = error;
    return 1;
}

static int fails_fd(int fd) {
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path, 0);
}

static int fails_at(int dir, const char *name, int removes) {
    char path[2 * PATH_MAX], base[64];
    ssize_t length = 0;
    if (name[0] != '/') {
        if (dir == AT_FDCWD) snprintf(base, sizeof base, "/proc/self/cwd");
        else snprintf(base, sizeof base, "/proc/self/fd/%d", dir);
        length = readlink(base, path, PATH_MAX - 1);
        if (length < 0) return 0;
        path[length++] = '/';
    }
    snprintf(path + length, PATH_MAX, "%s", name);
    return fails(path, removes);
}

#define NEXT(result, name, types) \
    static result(*next) types; \
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name)
#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE(flags) \
    int mode = 0; \
    va_list list; va_start(list, flags); \
    if ((flags) & (O_CREAT | O_TMPFILE)) mode = va_arg(list, int); \
    va_end(list);
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) NEXT(int, name, (const char *, int, ...)); \
        return CHANGES(flags) && fails_at(AT_FDCWD, path, 0) ? -1 : next(path, flags, mode); }
#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        MODE(flags) NEXT(int, name, (int, const char *, int, ...)); \
        return CHANGES(flags) && fails_at(dir, path, 0) ? -1 : next(dir, path, flags, mode); }
#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        NEXT(FILE *, name, (const char *, const char *)); \
        return how[0] != 'r' && fails_at(AT_FDCWD, path, 0) ? NULL : next(path, how); }
#define ON_FD(result, name, types, names, fd) \
    result name types { NEXT(result, name, types); return fails_fd(fd) ? -1 : next names; }
#define ON_PATH(name, types, names, dir, path, removes) \
    int name types { NEXT(int, name, types); return fails_at(dir, path, removes) ? -1 : next names; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd)
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd)
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd)
ON_FD(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd)
ON_FD(ssize_t, sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), to)
ON_FD(ssize_t, sendfile64, (int to, int from, off64_t *at, size_t size), (to, from, at, size), to)
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size), fd)
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), fd)
ON_FD(int, fsync, (int fd), (fd), fd)
ON_FD(int, fdatasync, (int fd), (fd), fd)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, 0)
ON_PATH(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to, 0)
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned how), (a, from, b, to, how), b, to, 0)
ON_PATH(link, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(linkat, (int a, const char *from, int b, const char *to, int how), (a, from, b, to, how), b, to, 0)
ON_PATH(symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(unlink, (const char *path), (path), AT_FDCWD, path, 1)
ON_PATH(unlinkat, (int dir, const char *path, int how), (dir, path, how), dir, path, 1)
ON_PATH(rmdir, (const char *path), (path), AT_FDCWD, path, 1)

static int64_t ahead(void) { return control ? control->ahead : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    NEXT(int, clock_gettime, (clockid_t, struct timespec *));
    int code = next(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    NEXT(int, gettimeofday, (struct timeval *, void *));
    int code = next(now, zone);
    if (!code) now->tv_sec += ahead();
    return code;
}

time_t time(time_t *at) {
    NEXT(time_t, time, (time_t *));
    time_t now = next(NULL) + ahead();
    if (at) *at = now;
    return now;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    NEXT(size_t, fwrite, (const void *, size_t, size_t, FILE *));
    return fails_fd(fileno(file)) ? 0 : next(data, size, count, file);
}
"""

ERRORS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


@dataclass(frozen=True)
class Fault:
    """What happens to a process.

    Attributes:
        kind: ``kill`` (SIGKILL), ``ENOSPC`` (the disk is full from then on) or ``EIO`` (once).
        at: The call that changes a file before which it happens, from 1; 0: none.
    """

    kind: str = "kill"
    at: int = 0


def compiler() -> str | None:
    """A C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """Compile the library into ``folder``.

    Raises:
        DelrecError: There is no C compiler, or it cannot compile this, as on systems other than Linux.
    """
    program, source, library = compiler(), folder / "faults.c", folder / "faults.so"
    if program is None:
        raise DelrecError("injecting faults needs a C compiler", "install gcc or clang")
    source.write_text(SOURCE, encoding="utf-8")
    command = [program, "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DelrecError(f"{program} cannot compile the faults: {done.stderr[-300:]}", "run this on Linux with glibc")
    return library


def is_loaded() -> bool:
    """Whether the library was loaded into this process."""
    return hasattr(ctypes.CDLL(None), "delrec_arm")


def arm(folder: Path, fault: Fault) -> None:
    """Count the changes below ``folder`` in this process from now on, and let ``fault`` happen."""
    ctypes.CDLL(None).delrec_arm(str(folder).encode(), ctypes.c_long(fault.at), ERRORS[fault.kind])


def changes() -> int:
    """How many calls since ``arm`` changed files."""
    count = ctypes.CDLL(None).delrec_calls
    count.restype = ctypes.c_long
    return int(count())


class Control:
    """Faults of a process that runs, switched by this one.

    Args:
        library: See ``build``.
        folder: Below it no file can be changed while the disk is full; removing works.
    """

    _FORM = "=qq4096s"

    def __init__(self, library: Path, folder: Path) -> None:
        path = library.with_name("faults.control")
        path.write_bytes(bytes(struct.calcsize(self._FORM)))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._folder = f"{folder.resolve()}/".encode()
        self._error = self._ahead = 0
        self.environment = {"LD_PRELOAD": str(library), "DELREC_FAULTS": str(path)}
        self._write()

    def fill_disk(self, full: bool) -> None:
        """Let every change of a file fail for want of space, or not any more."""
        self._error = errno.ENOSPC if full else 0
        self._write()

    def set_clock(self, seconds: int) -> None:
        """Let the clock be ahead of the true time."""
        self._ahead = seconds
        self._write()

    def _write(self) -> None:
        self._memory[:] = struct.pack(self._FORM, self._error, self._ahead, self._folder)
