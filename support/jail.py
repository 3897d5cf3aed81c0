"""The jail that confines model code, enforced by the kernel for root and others alike.

Landlock, seccomp, resource limits and no_new_privs, on x86-64 and aarch64 Linux.

    reading    | no file but those of the Python installation and the system's libraries
    writing    | no file and no folder, anywhere
    metadata   | of no file can it be changed
    network    | no socket of any kind
    processes  | none can be started; above 64 threads the call is killed within 50 ms
    others     | no signal to another process, no look into it; often /proc is empty too
    secrets    | nothing of the trainer's environment, memory and open files
    privileges | none can be gained, no limit raised, root or not
    kernel     | system calls that a computation does not need are refused, unknown ones too
    time       | SIGKILL at a monotonic deadline, whatever is ignored or blocked
    memory     | an allocation above the limit is a MemoryError
    output     | capped while it is read; a flood is killed
    state      | the next call finds everything as if this one had not been

Not covered: bugs of the kernel; timing channels; use of CPU time up to the deadline; the existence,
size and times of files, since Landlock does not govern stat; the contents of the Python
installation; and the status, since code may claim that it ended well. Run it in a container that
holds nothing you cannot lose.

1. `build_jail`, in the worker: prepare what is inherited, learn which parts hold.
2. `limit`, in each child: CPU time, memory, files.
3. `confine`, in each child: no privileges, Landlock, seccomp; there is no way back.

The deadline, the threads and the cap on output are kept from outside, by support/sandbox.py. The
tests attack every line of the table (tests/hostile.py). Standard library only.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

# the descriptor under which the worker keeps the Landlock rules for its children
RULES = 4
WANTS = {
    "landlock": "Landlock (Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and allowed by the "
    "container's seccomp profile)",
    "seccomp": "a seccomp filter (Linux on x86-64 or aarch64)",
}


def build_jail(sandbox: str) -> tuple[dict[str, bool], str, list[str]]:
    """Prepare in the worker what its children enter.

    Returns: (parts for confine, the level in words, what is missing of the whole jail). A part
             counts only if a trial child found itself confined by it.
    """
    parts = {"landlock": False, "seccomp": False}
    hidden, abi = False, 0
    if sandbox != "off" and sys.platform == "linux":
        with contextlib.suppress(OSError):
            _private_view()
            hidden = True
        with contextlib.suppress(OSError):
            abi, rules = _landlock_rules()
            os.dup2(rules, RULES)
            os.close(rules)
            parts["landlock"] = True
        parts["seccomp"] = platform.machine() in MACHINES and sys.maxsize > 1 << 32
        parts = {name: wanted and _holds(name) for name, wanted in parts.items()}
    names = [f"Landlock ABI {abi}"] * parts["landlock"]
    names += ["seccomp"] * parts["seccomp"]
    names += ["own namespaces"] * hidden
    missing = [WANTS[name] for name, held in parts.items() if not held]
    level = f"{'no jail' if missing else 'jail'}: {', '.join([*names, 'process limits'])}"
    return parts, level, missing


def limit(timeout: float, memory_mb: int) -> None:
    """Set the resource limits of this process. An inherited limit that is lower stays."""
    limits = {
        resource.RLIMIT_CPU: int(timeout) + 1,
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_FSIZE: 1 << 24,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    # macOS refuses some of them
    tolerated = [] if sys.platform == "linux" else [ValueError, OSError]
    for name, value in limits.items():
        most = resource.getrlimit(name)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(*tolerated):
            resource.setrlimit(name, (value, value))


def confine(parts: dict[str, bool]) -> None:
    """Enter the jail for good: die with the worker, hold no privileges, then these parts.

    Raises: OSError if one of them fails.
    """
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG
        _libc("prctl", 1, signal.SIGKILL, 0, 0, 0)
        # PR_SET_NO_NEW_PRIVS
        _libc("prctl", 38, 1, 0, 0, 0)
        _drop_capabilities()
    if parts["landlock"]:
        # landlock_restrict_self
        _libc("syscall", 446, RULES, 0)
    if parts["seccomp"]:
        program = ctypes.create_string_buffer(seccomp_filter(platform.machine(), os.getpid()))
        arguments = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        _libc("prctl", 22, 2, arguments, 0, 0)


def _holds(part: str) -> bool:
    """Does a child that enters this part find a door shut that is open without it?"""
    pid = os.fork()
    if pid == 0:
        try:
            confine({"landlock": False, "seccomp": False} | {part: True})
            socket.socket() if part == "seccomp" else os.open("/", os.O_RDONLY)
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _libc(name: str, *arguments) -> int:
    """Call a function of the C library; OSError if it says -1."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*values)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


# ---- namespaces and capabilities


def _private_view() -> None:
    """Own mount, network and IPC namespaces and an empty /proc. OSError where that is forbidden."""
    uid, gid = os.getuid(), os.getgid()
    # CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC
    spaces = 0x00020000 | 0x40000000 | 0x08000000
    try:
        _libc("unshare", spaces)
    # a user namespace gives the right; in it files of other users stay theirs
    except PermissionError:
        # CLONE_NEWUSER
        _libc("unshare", spaces | 0x10000000)
        # "deny" first: the kernel demands it before it takes a gid_map
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    # MS_REC, MS_PRIVATE
    _libc("mount", None, b"/", None, 0x4000 | 0x40000, None)
    # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
    _libc("mount", b"none", b"/proc", b"tmpfs", 1 | 2 | 4 | 8, None)


def _drop_capabilities() -> None:
    """Keep of root's rights only CAP_DAC_READ_SEARCH, to read what belongs to others."""
    # a Python that another user installed may need it; Landlock still says which files
    header, held = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _libc("capget", header, held)
    kept = struct.unpack_from("=II", held)[1] & 0b100
    _libc("capset", header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


# ---- Landlock: which files


def _landlock_rules() -> tuple[int, int]:
    """The kernel's Landlock ABI and a ruleset: libraries may be read. OSError without Landlock."""
    # landlock_create_ruleset: with the flag 1 it tells the ABI
    abi = _libc("syscall", 444, None, 0, 1)
    # every right of that ABI is taken away: on files, TCP ports, signals and abstract sockets
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    rules = _libc("syscall", 444, struct.pack("=QQQ", files, 3 * (abi >= 4), 3 * (abi >= 6)), 24, 0)
    # and these are given back
    for path, rights in _readable().items():
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            # landlock_add_rule
            _libc("syscall", 445, rules, 1, struct.pack("=Qi", rights & files, place), 0)
            os.close(place)
    return abi, rules


def _readable() -> dict[str, int]:
    """Path -> the Landlock rights on it and on what is below it."""
    write, read, list_, truncate = 1 << 1, 1 << 2, 1 << 3, 1 << 14
    prefixes = (sys.prefix, sys.base_prefix, "/usr", "/usr/local", "")
    roots = {f"{prefix}/{lib}" for prefix in prefixes for lib in ("lib", "lib64")}
    files = ("/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/urandom", "/dev/random")
    allowed = {root: read | list_ for root in roots | {"/usr/share/zoneinfo"}}
    allowed |= {file: read for file in files}
    return allowed | {"/dev/null": read | write | truncate}


# ---- seccomp: which system calls

# column of SYSCALLS, AUDIT_ARCH
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
# What passes, "name:x86-64:aarch64", "-" where a machine does not have it: reading what Landlock
# allows, memory, threads, time, own signals.
SYSCALLS = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 lseek:8:62
open:2:- openat:257:56 getdents64:217:61 fstat:5:80 stat:4:- lstat:6:- newfstatat:262:79
statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439 getcwd:79:17 ioctl:16:29 fcntl:72:25
dup:32:23 dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 poll:7:- ppoll:271:73 select:23:-
pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
eventfd2:290:19 recvmsg:47:212 ftruncate:77:46 fsync:74:82 umask:95:166
mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 madvise:28:233 mincore:27:232 brk:12:214
membarrier:324:283 arch_prctl:158:-
clone:56:220 clone3:435:435 exit:60:93 exit_group:231:94 futex:202:98 set_robust_list:273:99
get_robust_list:274:100 rseq:334:293 set_tid_address:218:96 sched_yield:24:124
sched_getaffinity:204:123 getcpu:309:168 prctl:157:167 prlimit64:302:261 getrlimit:97:163
getrusage:98:165 restart_syscall:219:128
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 kill:62:129 tgkill:234:131
pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102 timer_create:222:107 timer_settime:223:110
timer_gettime:224:108 timer_delete:226:111 nanosleep:35:101 clock_nanosleep:230:115
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153
getpid:39:172 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177
getgroups:115:158 uname:63:160 sysinfo:99:179 getrandom:318:278
"""
# BPF: load a word, jump if equal, jump if a bit is set, return
LOAD, EQUAL, BITS, RETURN = 0x20, 0x15, 0x45, 0x06
# what a filter may return; the last two with EPERM and with ENOSYS
ALLOW, KILL, REFUSE, ABSENT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def seccomp_filter(machine: str, pid: int) -> bytes:
    """The filter of the process `pid`, a BPF program of 8 bytes per instruction.

    What is in SYSCALLS passes, some of it by its arguments; the rest is EPERM. clone3 answers
    ENOSYS, so that the C library makes threads by clone, whose flags a filter can read.
    """
    column, arch = MACHINES[machine]
    conditions = _conditions(pid)
    # word 4 of what the filter sees is the architecture, word 0 the number of the call
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for name, *numbers in (call.split(":") for call in SYSCALLS.split()):
        if numbers[column - 1] == "-":
            continue
        body = []
        for test, word, values in conditions.get(name, []):
            body.append((LOAD, 0, 0, 16 + 4 * word))
            # each jumps over the others and the refusal
            jumps = range(len(values), 0, -1)
            body += [(test, jump, 0, value) for jump, value in zip(jumps, values)]
            body.append((RETURN, 0, 0, REFUSE))
        body.append((RETURN, 0, 0, ABSENT if name == "clone3" else ALLOW))
        program += [(EQUAL, 0, len(body), int(numbers[column - 1])), *body]
    program.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def _conditions(pid: int) -> dict[str, list[tuple[int, int, list[int]]]]:
    """Per call: (test, 32-bit word of the arguments, values of which one must pass)."""
    # argument i is the words 2i (low) and 2i + 1 (high)
    return {
        # CLONE_THREAD
        "clone": [(BITS, 0, [0x10000])],
        "kill": [(EQUAL, 0, [pid])],
        "tgkill": [(EQUAL, 0, [pid])],
        # may read its own limits, not set them
        "prlimit64": [(EQUAL, 0, [0, pid]), (EQUAL, 4, [0]), (EQUAL, 5, [0])],
        # PR_SET_NAME
        "prctl": [(EQUAL, 0, [15])],
        # copies and flags: F_SETOWN would send signals
        "fcntl": [(EQUAL, 2, [0, 1, 2, 3, 4, 1030])],
        # TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
        "ioctl": [(EQUAL, 2, [0x5401, 0x541B, 0x5421, 0x5450, 0x5451])],
        "sched_getaffinity": [(EQUAL, 0, [0, pid])],
    }
