"""The jail that confines model code, enforced by the kernel.

The jail of PythonTool, enforced by the kernel (Landlock, seccomp, resource limits, no_new_privs) on x86-64 and aarch64 Linux, for root and others alike:
    reading    | no file but those of the Python installation and the system's libraries
    writing    | no file and no folder, anywhere
    metadata   | of no file can it be changed
    network    | no socket of any kind
    processes  | none can be started, by fork or exec; threads can, but more than 64 are noticed within 50 ms and the call is killed
    others     | no signal to another process, no look into it; where own namespaces are allowed /proc is empty too
    secrets    | nothing of the trainer's environment, memory and open files
    privileges | none can be gained, no limit raised, root or not
    kernel     | system calls that a computation does not need are refused, unknown ones too
    time       | SIGKILL at a monotonic deadline, whatever is ignored or blocked
    memory     | an allocation above the limit is a MemoryError
    output     | capped while it is read; a flood is killed
    state      | the next call finds everything as if this one had not been
Not covered: bugs of the kernel, timing channels, use of CPU time up to the deadline, the existence, size and times of files (stat is not governed by
Landlock), the contents of the Python installation, and the status: code may claim that it ended well. Run it in a container that holds nothing you cannot lose.
"""

import contextlib
import ctypes
import os
import platform
import signal
import socket
import struct
import sys
from pathlib import Path


def build_jail(sandbox: str) -> tuple[dict, str, list[str]]:
    """Prepare in the worker what its children enter: (parts for confine, the level in words, what is missing of the whole jail).

    A part counts only if a trial child found itself confined by it.
    """
    parts, hidden, abi = {"landlock": False, "seccomp": False}, False, 0
    if sandbox != "off" and sys.platform == "linux":
        with contextlib.suppress(OSError):
            _private_view()
            hidden = True
        with contextlib.suppress(OSError):
            abi, rules = _landlock_rules()
            os.dup2(rules, 4)
            os.close(rules)
            parts["landlock"] = True
        parts["seccomp"] = platform.machine() in MACHINES and sys.maxsize > 1 << 32
        parts = {name: wanted and _holds(name) for name, wanted in parts.items()}
    names = (
        [f"Landlock ABI {abi}"] * parts["landlock"]
        + ["seccomp"] * parts["seccomp"]
        + ["own namespaces"] * hidden
    )
    wants = {
        "landlock": "Landlock (Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and allowed by the container's seccomp profile)",
        "seccomp": "a seccomp filter (Linux on x86-64 or aarch64)",
    }
    missing = [wants[name] for name, held in parts.items() if not held]
    return (
        parts,
        f"{'no jail' if missing else 'jail'}: {', '.join(names + ['process limits'])}",
        missing,
    )


def _holds(part: str) -> bool:
    """Does a child that enters this part of the jail find a door shut that is open without it?"""

    def trial():
        confine({"landlock": False, "seccomp": False} | {part: True})
        socket.socket() if part == "seccomp" else os.open("/", os.O_RDONLY)

    pid = os.fork()
    if pid == 0:
        try:
            trial()
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def confine(parts: dict) -> None:
    """Enter the jail, for good: die with the worker, have and gain no privileges, then Landlock and seccomp if they are among the parts. OSError if one fails."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG
        _libc("prctl", 1, signal.SIGKILL, 0, 0, 0)
        # PR_SET_NO_NEW_PRIVS
        _libc("prctl", 38, 1, 0, 0, 0)
        _drop_capabilities()
    if parts["landlock"]:
        # landlock_restrict_self
        _libc("syscall", 446, 4, 0)
    if parts["seccomp"]:
        program = ctypes.create_string_buffer(seccomp_filter(platform.machine(), os.getpid()))
        arguments = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        _libc("prctl", 22, 2, arguments, 0, 0)


def _libc(name: str, *arguments) -> int:
    """Call a function of the C library; OSError if it says -1."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*values)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def _private_view() -> None:
    """Give this process its own mount, network and IPC namespaces and an empty /proc. OSError where the kernel or a container forbids it."""
    # CLONE_NEWNS, NEWNET, NEWIPC
    uid, gid, spaces = os.getuid(), os.getgid(), 0x00020000 | 0x40000000 | 0x08000000
    try:
        _libc("unshare", spaces)
    # a user namespace gives the right; in it files of other users stay theirs
    except PermissionError:
        # CLONE_NEWUSER
        _libc("unshare", spaces | 0x10000000)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    # MS_REC, MS_PRIVATE
    _libc("mount", None, b"/", None, 0x4000 | 0x40000, None)
    # MS_RDONLY, NOSUID, NODEV, NOEXEC
    _libc("mount", b"none", b"/proc", b"tmpfs", 1 | 2 | 4 | 8, None)


def _drop_capabilities() -> None:
    """Keep of root's rights only that of reading what belongs to others, which a Python installed by another user may need."""
    header, held = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _libc("capget", header, held)
    # CAP_DAC_READ_SEARCH
    kept = struct.unpack_from("=II", held)[1] & 0b100
    _libc("capset", header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def _landlock_rules() -> tuple[int, int]:
    """The kernel's Landlock ABI and a ruleset that lets the libraries be read and nothing else. OSError where there is no Landlock."""
    abi = _libc("syscall", 444, None, 0, 1)
    # every right of that ABI is taken away ..
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    rules = _libc("syscall", 444, struct.pack("=QQQ", files, 3 * (abi >= 4), 3 * (abi >= 6)), 24, 0)
    read, list_, write, cut = 1 << 2, 1 << 3, 1 << 1, 1 << 14
    roots = {
        f"{prefix}/{lib}"
        for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local", "")
        for lib in ("lib", "lib64")
    }
    allowed = {root: read | list_ for root in roots | {"/usr/share/zoneinfo"}}
    allowed |= dict.fromkeys(
        ("/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/urandom", "/dev/random"), read
    ) | {"/dev/null": read | write | cut}
    # .. and these are given back
    for path, rights in allowed.items():
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _libc("syscall", 445, rules, 1, struct.pack("=Qi", rights & files, place), 0)
            os.close(place)
    return abi, rules


# column of the table below, AUDIT_ARCH
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}


# What the jail lets through, "name:x86-64:aarch64", "-" where a machine does not have it: reading what Landlock allows, memory, threads, time, own signals.
SYSCALLS = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 lseek:8:62 open:2:- openat:257:56 getdents64:217:61 fstat:5:80 stat:4:-
lstat:6:- newfstatat:262:79 statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439 getcwd:79:17 ioctl:16:29 fcntl:72:25 dup:32:23 dup2:33:- dup3:292:24
pipe:22:- pipe2:293:59 poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
eventfd2:290:19 recvmsg:47:212 ftruncate:77:46 fsync:74:82 umask:95:166
mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 madvise:28:233 mincore:27:232 brk:12:214 membarrier:324:283 arch_prctl:158:-
clone:56:220 clone3:435:435 exit:60:93 exit_group:231:94 futex:202:98 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293 set_tid_address:218:96
sched_yield:24:124 sched_getaffinity:204:123 getcpu:309:168 prctl:157:167 prlimit64:302:261 getrlimit:97:163 getrusage:98:165 restart_syscall:219:128
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132
kill:62:129 tgkill:234:131 pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_delete:226:111 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153
getpid:39:172 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158 uname:63:160 sysinfo:99:179 getrandom:318:278
"""


def seccomp_filter(machine: str, pid: int) -> bytes:
    """The seccomp filter of the process `pid`, a BPF program (8 bytes per instruction): what is in SYSCALLS passes, some of it by its arguments; the rest is
    EPERM. clone3 answers ENOSYS, so that the C library makes its threads by clone, whose flags a filter can read."""
    column, arch = MACHINES[machine]
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    # per call: conditions (test, 32-bit word of the arguments, values of which one must pass); argument i is words 2i (low) and 2i + 1
    # CLONE_THREAD; itself
    conditions = {
        "clone": [(bits, 0, [0x10000])],
        "kill": [(equal, 0, [pid])],
        "tgkill": [(equal, 0, [pid])],
        # reads its own limits; its name
        "prlimit64": [(equal, 0, [0, pid]), (equal, 4, [0]), (equal, 5, [0])],
        "prctl": [(equal, 0, [15])],
        # copies and flags: F_SETOWN would send signals
        "fcntl": [(equal, 2, [0, 1, 2, 3, 4, 1030])],
        "ioctl": [(equal, 2, [0x5401, 0x541B, 0x5421, 0x5450, 0x5451])],
        "sched_getaffinity": [(equal, 0, [0, pid])],
    }
    program = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    for name, *numbers in (call.split(":") for call in SYSCALLS.split()):
        if numbers[column - 1] != "-":
            body = []
            for test, word, values in conditions.get(name, []):
                body += (
                    [(load, 0, 0, 16 + 4 * word)]
                    + [(test, len(values) - k, 0, value) for k, value in enumerate(values)]
                    + [(give, 0, 0, refuse)]
                )
            body.append((give, 0, 0, absent if name == "clone3" else allow))
            program += [(equal, 0, len(body), int(numbers[column - 1]))] + body
    return b"".join(struct.pack("=HBBI", *line) for line in program + [(give, 0, 0, refuse)])
