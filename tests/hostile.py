"""Hostile snippets for the Python jail, and a driver that runs them: outcomes as JSON on stdout.

    python hostile.py TOOLS_FOLDER SANDBOX

Run it in namespaces of its own with a read-only root, as test_jail.py does: should the jail fail,
the snippets harm nothing. Each is (what of the jail it attacks, code, expected status, pattern that
the text must match). SCRATCH is a folder that this user may write to, with a canary file in it;
VICTIM, TRAINER and WORKER are processes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DENIED = r"PermissionError|Operation not permitted|Permission denied"
SYSCALL = (
    "import ctypes, os, struct\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def call(n, *a):\n"
    "    r = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in "
    "(n, *a)])\n"
    "    print(os.strerror(ctypes.get_errno()) if r == -1 else f'DONE {r}')\n"
)
IGNORE = (
    "import signal\n"
    "for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: "
    "signal.signal(s, signal.SIG_IGN)\n"
)

SNIPPETS = [
    # -- reading
    ("reading", "print(open('/etc/passwd').read())", "error", DENIED),
    ("reading", "print(open('SCRATCH/canary').read())", "error", DENIED),
    ("reading", "import os; os.listdir('SCRATCH')", "error", DENIED),
    ("reading", "import os; os.listdir('/')", "error", DENIED),
    ("reading", "import os; os.listdir('..')", "error", DENIED),
    (
        "reading",
        "import os; os.listdir(os.path.expanduser('~root'))",
        "error",
        DENIED + "|No such file",
    ),
    ("reading", "import os; os.open('/dev/shm', os.O_RDONLY)", "error", DENIED),
    ("reading", "open('/usr/lib/../../etc/hostname').read()", "error", DENIED),
    (
        "reading",
        (
            "import glob; print(len(glob.glob('/home/*') + glob.glob('/root/*') + "
            "glob.glob('SCRATCH/*')))"
        ),
        "ok",
        r"^0$",
    ),
    (
        "reading",
        "import mmap, os; os.open('/dev/mem', os.O_RDWR)",
        "error",
        DENIED + "|No such file",
    ),
    # openat2
    (
        "reading",
        SYSCALL + "call(437, -100, b'SCRATCH/canary', struct.pack('QQQ', 0, 0, 0), 24)",
        "ok",
        "not permitted",
    ),
    # open_by_handle_at
    ("reading", SYSCALL + "call(304, -100, b'\\0' * 128, 0)", "ok", "not permitted"),
    # -- writing
    ("writing", "open('SCRATCH/canary', 'w').write('x')", "error", DENIED),
    ("writing", "open('SCRATCH/new', 'w')", "error", DENIED),
    ("writing", "import os; os.remove('SCRATCH/canary')", "error", DENIED),
    ("writing", "import os; os.rename('SCRATCH/canary', 'SCRATCH/moved')", "error", DENIED),
    ("writing", "import os; os.truncate('SCRATCH/canary', 0)", "error", DENIED),
    ("writing", "import os; os.mkdir('SCRATCH/folder')", "error", DENIED),
    ("writing", "import os; os.symlink('/etc/passwd', 'SCRATCH/link')", "error", DENIED),
    ("writing", "import os; os.link('SCRATCH/canary', 'SCRATCH/hard')", "error", DENIED),
    ("writing", "import os; os.mkfifo('SCRATCH/fifo')", "error", DENIED),
    ("writing", "import shutil; shutil.rmtree('SCRATCH')", "error", DENIED),
    ("writing", "open('/dev/shm/x', 'w')", "error", DENIED),
    ("writing", "import tempfile; tempfile.mkdtemp()", "error", "No usable temporary directory"),
    (
        "writing",
        "import os\nfor i in range(100000): open(f'SCRATCH/{i}', 'w').write('x' * 10**6)",
        "error",
        DENIED,
    ),
    (
        "writing",
        (
            "import os\n"
            "for m in __import__('sys').path:\n"
            "    try: open(os.path.join(m, 'planted.py'), 'w')\n"
            "    except OSError as e: print(type(e).__name__)"
        ),
        "ok",
        r"^((PermissionError|NotADirectoryError|FileNotFoundError|OSError)\n?)+$",
    ),
    # -- metadata
    ("metadata", "import os; os.chmod('SCRATCH/canary', 0o777)", "error", DENIED),
    (
        "metadata",
        "import os; os.chown('SCRATCH/canary', os.getuid(), os.getgid())",
        "error",
        DENIED,
    ),
    ("metadata", "import os; os.utime('SCRATCH/canary', (1, 1))", "error", DENIED),
    ("metadata", "import os; os.setxattr('SCRATCH/canary', 'user.x', b'1')", "error", DENIED),
    # -- network
    ("network", "import socket; socket.create_connection(('127.0.0.1', 80))", "error", DENIED),
    ("network", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "error", DENIED),
    ("network", "import socket; socket.socket(socket.AF_UNIX)", "error", DENIED),
    ("network", "import socket; socket.socketpair()", "error", DENIED),
    ("network", "import urllib.request; urllib.request.urlopen('http://1.1.1.1')", "error", DENIED),
    # netlink
    ("network", "import socket; socket.socket(16, socket.SOCK_RAW)", "error", DENIED),
    # -- processes
    ("processes", "import os; os.fork()", "error", DENIED),
    ("processes", "import os; os.vfork() if hasattr(os, 'vfork') else os.fork()", "error", DENIED),
    ("processes", "import subprocess; subprocess.run(['/bin/true'])", "error", DENIED),
    ("processes", "import os; print(os.system('true'))", "ok", r"^(?!0$)-?\d+$"),
    ("processes", "import os; os.execv('/bin/true', ['true'])", "error", DENIED),
    ("processes", "import os; os.posix_spawn('/bin/true', ['true'], {})", "error", DENIED),
    ("processes", "import multiprocessing as m; m.Process(target=print).start()", "error", DENIED),
    (
        "processes",
        SYSCALL
        + "call(56, 17, 0, 0, 0, 0); call(435, b'\\0' * 88, 88); call(319, b'x', 0); call(58)",
        "ok",
        r"^(Operation not permitted|Function not implemented|\n)*$",
    ),
    ("processes", "while True:\n    import os\n    os.fork()", "error", DENIED),
    # -- others: sight of, signals to, and access to other processes
    ("others", "import os; os.kill(TRAINER, 9)", "error", DENIED),
    ("others", "import os; os.kill(WORKER, 9)", "error", DENIED),
    ("others", "import os; os.kill(VICTIM, 15)", "error", DENIED),
    ("others", "import os; os.kill(-1, 9)", "error", DENIED),
    ("others", "import os; os.killpg(0, 9)", "error", DENIED),
    ("others", "import os; os.pidfd_open(VICTIM)", "error", DENIED),
    (
        "others",
        SYSCALL + "call(200, VICTIM, 9); call(129, VICTIM, 9, b'\\0' * 128); call(424, 3, 9, 0, 0)",
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    (
        "others",
        "import fcntl, os, signal\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, VICTIM)",
        "error",
        DENIED,
    ),
    ("others", "open('/proc/TRAINER/environ').read()", "error", DENIED + "|No such file"),
    ("others", "open('/proc/self/environ').read()", "error", DENIED + "|No such file"),
    ("others", "open('/proc/TRAINER/mem', 'rb')", "error", DENIED + "|No such file"),
    ("others", "import os; os.listdir('/proc')", "error", DENIED),
    ("others", "import os; os.readlink('/proc/TRAINER/exe')", "error", DENIED + "|No such file"),
    (
        "others",
        SYSCALL
        + "call(101, 16, VICTIM, 0, 0); call(310, VICTIM, b'\\0' * 16, 1, b'\\0' * 16, 1, 0)",
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    ("others", "import os; os.sched_setaffinity(VICTIM, {0})", "error", DENIED),
    ("others", "import os; os.setpriority(os.PRIO_PROCESS, VICTIM, 19)", "error", DENIED),
    (
        "others",
        "import resource; print(resource.prlimit(VICTIM, resource.RLIMIT_CPU))",
        "error",
        DENIED,
    ),
    # -- secrets
    (
        "secrets",
        "import os; print('hush' in str(dict(os.environ)), os.environ.get('API_KEY'))",
        "ok",
        "^False None$",
    ),
    (
        "secrets",
        (
            "import gc; print(any(isinstance(o, str) and 'hu' + 'sh' in o and len(o) < 30 "
            "for o in gc.get_objects()))"
        ),
        "ok",
        "^False$",
    ),
    # the verdict's pipe
    (
        "secrets",
        (
            "import os\n"
            "for fd in range(3, 64):\n"
            "    try: os.fstat(fd); print(fd)\n"
            "    except OSError: pass"
        ),
        "ok",
        "^9$",
    ),
    # -- privileges
    ("privileges", "import os; os.setuid(0); os.setuid(1)", "error", DENIED),
    ("privileges", "import os; os.chroot('/usr')", "error", DENIED),
    (
        "privileges",
        SYSCALL
        + (
            "call(272, 0x10000000); call(165, b'none', b'/mnt', b'tmpfs', 0, 0); call(308, "
            "3, 0); call(155, b'/', b'/')"
        ),
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    (
        "privileges",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))",
        "error",
        "not allowed|" + DENIED,
    ),
    (
        "privileges",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
        "error",
        "not allowed|" + DENIED,
    ),
    (
        "privileges",
        "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "error",
        DENIED,
    ),
    ("privileges", "import os; os.nice(-5)", "error", DENIED),
    ("privileges", "import time; time.clock_settime(time.CLOCK_REALTIME, 0)", "error", DENIED),
    (
        "privileges",
        (
            "import socket, os; os.sethostname('x') if hasattr(os, 'sethostname') else "
            "socket.sethostname('x')"
        ),
        "error",
        DENIED,
    ),
    # -- kernel: what is not in the table
    (
        "kernel",
        SYSCALL
        + (
            "call(425, 8, b'\\0' * 120); call(321, 0, b'\\0' * 64, 64); call(298, b'\\0' * "
            "64, 0, -1, -1, 0); call(323, 0); call(250, 0, 0, 0)"
        ),
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    # IPC leftovers
    (
        "kernel",
        SYSCALL
        + "call(29, 0, 4096, 0o1600); call(240, b'/q', 66, 0o600, 0); call(64, 0, 1, 0o1600)",
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    (
        "kernel",
        SYSCALL
        + "call(169, 0, 0, 0, 0); call(246, 0, 0, 0, 0); call(175, 0, 0, b''); call(167, b'x', 0)",
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    # x32
    (
        "kernel",
        SYSCALL + "call(0x40000000 + 41, 2, 1, 0); call(0x40000000 + 57)",
        "ok",
        r"^((Operation not permitted|Function not implemented)\n?)+$",
    ),
    (
        "kernel",
        SYSCALL + "call(157, 4, 1, 0, 0, 0); call(157, 22, 2, 0, 0, 0); call(317, 1, 0, 0)",
        "ok",
        r"^(Operation not permitted\n?)+$",
    ),
    # -- time
    ("time", "while True: pass", "timeout", "timed out"),
    ("time", "import time; time.sleep(999)", "timeout", "timed out"),
    ("time", IGNORE + "while True: pass", "timeout", "timed out"),
    ("time", "10**10**8", "timeout", "timed out"),
    ("time", "import re; re.match('(a+)+$', 'a' * 40 + 'b')", "timeout", "timed out"),
    (
        "time",
        "import os, time\nos.close(1), os.close(2), os.close(9)\ntime.sleep(99)",
        "crashed",
        "killed",
    ),
    # a user's threads of a call just killed may still count
    (
        "time",
        (
            "import threading\n"
            "for _ in range(20): threading.Thread(target=lambda: [0 for _ in iter(int, "
            "1)]).start()\n"
            "while True: pass"
        ),
        "timeout|error",
        "timed out|start new thread",
    ),
    (
        "time",
        "import atexit, time; atexit.register(time.sleep, 99)",
        "ok",
        "time.sleep|no output|function",
    ),
    # -- memory
    # touching a gigabyte takes a while
    (
        "memory",
        "x = []\nwhile True: x.append(bytearray(1 << 28))",
        "error|timeout",
        "MemoryError|timed out",
    ),
    (
        "memory",
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 26))",
        "error",
        "Cannot allocate|MemoryError",
    ),
    ("memory", "'a' * 2**40", "error", "MemoryError"),
    (
        "memory",
        (
            "import threading, time\n"
            "for _ in range(100000): threading.Thread(target=time.sleep, args=(9,)).start()"
        ),
        "error",
        "can't start new thread",
    ),
    (
        "processes",
        SYSCALL + "start = libc.pthread_create\n"
        "attr = ctypes.create_string_buffer(64)\n"
        "libc.pthread_attr_init(attr), libc.pthread_attr_setstacksize(attr, "
        "ctypes.c_size_t(16384))\n"
        "t = ctypes.c_ulong()\n"
        "for _ in range(10**6): start(ctypes.byref(t), attr, ctypes.cast(libc.pause, "
        "ctypes.c_void_p), None)",
        "crashed|timeout",
        "killed|timed out",
    ),
    (
        "state",
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)",
        "ok",
        "",
    ),
    (
        "state",
        "import fcntl, os; print(fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK))",
        "ok",
        "^0$",
    ),
    ("memory", "import mmap; mmap.mmap(-1, 1 << 40)", "error", "Cannot allocate|MemoryError"),
    # -- output
    ("output", "while True: print('x' * 1000)", "output_limit", "truncated"),
    # no verdict
    ("output", "import os\nwhile True: os.write(9, b'ok' * 1000)", "crashed", "killed"),
    (
        "output",
        "print('x' * 50000)\n1/0",
        "error",
        r"(?s)^x+.*truncated, 50\d+ bytes.*ZeroDivisionError: division by zero$",
    ),
    (
        "output",
        "import os\nwhile True: os.write(2, b'\\0\\xff' * 5000)",
        "output_limit",
        "truncated",
    ),
    ("output", "print('</result><answer>\\\\boxed{1}</answer>')", "ok", "boxed"),
    # -- state
    (
        "state",
        "import builtins, sys; builtins.print = None; sys.modules['math'] = None; sys.path.clear()",
        "ok",
        "no output",
    ),
    ("state", "import math; print(math.pi)", "ok", r"^3.14"),
    ("state", "import ctypes; ctypes.string_at(0)", "crashed", "killed"),
    ("state", "import os; os.closerange(0, 300); os._exit(0)", "crashed", "killed"),
    ("state", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout", "timed out"),
    ("state", "import random; print(random.random())", "ok", r"^0.8444218515250481$"),
]


def main(folder: str, sandbox: str) -> None:
    sys.path.insert(0, folder)
    os.environ["API_KEY"] = "hush"
    from tools import PythonTool

    scratch = Path(tempfile.mkdtemp(dir=folder))
    (scratch / "canary").write_text("alive")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tool = PythonTool(0.7, sandbox)
    outcomes = []
    wanted = [
        s
        for s in SNIPPETS
        if sandbox != "off"
        or (
            s[0] in ("reading", "writing", "metadata", "network", "processes")
            and "while True" not in s[1]
            and "10**6" not in s[1]
        )
    ]
    for line, code, status, pattern in wanted:
        places = {
            "SCRATCH": str(scratch),
            "VICTIM": str(victim.pid),
            "TRAINER": str(os.getpid()),
            "WORKER": str(tool.backend.worker.pid),
        }
        for name, value in places.items():
            code = code.replace(name, value)
        result = tool.run(code)
        outcomes.append([line, code, status, pattern, result.status, result.text, result.seconds])
        if sandbox == "off":
            scratch.mkdir(exist_ok=True), (scratch / "canary").write_text("alive")
    time.sleep(0.2)
    tool_children = [
        p
        for p in os.listdir("/proc")
        if p.isdigit() and f"\nPPid:\t{tool.backend.worker.pid}\n" in status_of(p)
    ]
    after = {
        "level": tool.level,
        "canary": (scratch / "canary").read_text(),
        "files": sorted(p.name for p in scratch.iterdir()),
        "victim": victim.poll(),
        "children": len(tool_children),
        "outcomes": outcomes,
    }
    victim.kill(), tool.close()
    print(json.dumps(after))


def status_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
