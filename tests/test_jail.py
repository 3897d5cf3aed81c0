"""support/jail.py: hostile code as root and as a user; the seccomp filter call by call; levels."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import hostile
import pytest

from support import jail
from support.jail import SYSCALLS, confine, seccomp_filter
from support.python_worker import SPARES
from tools import PythonTool

HERE = Path(__file__).parent
LINES = sorted({snippet[0] for snippet in hostile.SNIPPETS})
PREPARE = """
mount --make-rprivate / && mount -t tmpfs -o size=64m,mode=755 none /mnt
mount -t tmpfs -o size=16m,mode=1777 none /dev/shm
mkdir -m 777 /mnt/work
mkdir -m 755 /mnt/work/support
cp "$SNIPPETS" "$PROJECT/tools.py" "$PROJECT/protocol.py" /mnt/work
cp "$PROJECT"/support/*.py /mnt/work/support
chmod 644 /mnt/work/*.py /mnt/work/support/*.py
cut -d' ' -f2 /proc/mounts | grep -v -e '^/mnt$' -e '^/dev/shm$' -e '^/proc' |
while read -r place; do mount -o remount,bind,ro "$place" 2>/dev/null || true; done
! touch /planted 2>/dev/null
"""


def interpreter(prefix):
    again = "import subprocess, sys; "
    again += "subprocess.run([sys.executable, '-c', 'pass'], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):
        if (
            subprocess.run([*prefix, python, "-c", again], capture_output=True, cwd="/").returncode
            == 0
        ):
            return python
    pytest.skip("this user can run no Python here")


def attack(identity: str, sandbox: str) -> dict:
    """Run all snippets as root or as a user, in namespaces of their own with a read-only root."""
    root = os.geteuid() == 0
    drop = (
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        if identity == "user" and root
        else []
    )
    own = ["--mount", "--pid", "--fork", "--net", "--ipc", "--mount-proc"] + (
        [] if root else ["--user", "--map-root-user"]
    )
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", *own, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs unshare(1) and the right to make namespaces")
    script = PREPARE + " ".join(
        [*drop, interpreter(drop), "/mnt/work/hostile.py", "/mnt/work", sandbox]
    )
    environment = os.environ | {"PROJECT": str(HERE.parent), "SNIPPETS": str(HERE / "hostile.py")}
    done = subprocess.run(
        ["unshare", *own, "sh", "-ec", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["root", pytest.param("user", marks=pytest.mark.slow)])
def attacked(request):
    if PythonTool(sandbox="best-effort").level.startswith("no jail"):
        pytest.skip("this kernel offers no whole jail")
    return attack(request.param, "require")


@pytest.mark.parametrize("line", LINES)
def test_hostile_code_is_contained(attacked, line):
    assert attacked["level"].startswith("jail: Landlock")
    for name, code, status, pattern, got, text, seconds in attacked["outcomes"]:
        if name == line:
            assert re.fullmatch(status, got) and re.search(pattern, text), (code, got, text)
            # the deadline is 0.7 s
            assert seconds < 5, (code, seconds)


def test_hostile_code_leaves_no_trace(attacked):
    assert len(attacked["outcomes"]) == len(hostile.SNIPPETS) >= 50
    assert (
        attacked["canary"] == "alive"
        and attacked["files"] == ["canary"]
        and attacked["victim"] is None
    )
    assert attacked["children"] <= SPARES


def test_every_line_of_the_jail_is_attacked():
    assert sorted(re.findall(r"^ {4}(\w+) +\|", jail.__doc__, re.MULTILINE)) == LINES


def test_the_suite_notices_a_jail_that_is_not_there():
    """Without the jail nearly all of these snippets do their harm, so the test above can fail."""
    outcomes = attack("root", "off")["outcomes"]
    contained = [
        code
        for _, code, status, pattern, got, text, _ in outcomes
        if re.fullmatch(status, got) and re.search(pattern, text)
    ]
    assert len(outcomes) > 35 and len(contained) < 8, contained


# ---- the filter, call by call, by a BPF interpreter of its own


def judge(program: bytes, number: int, arguments=(0,) * 6, arch=0xC000003E) -> int:
    """What the kernel would do with a system call: run the program over a struct seccomp_data."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *[a & (1 << 64) - 1 for a in arguments])
    lines, at, word = (
        [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)],
        0,
        0,
    )
    while True:
        code, yes, no, value = lines[at]
        if code == 0x06:
            return value
        if code == 0x20:
            word = struct.unpack_from("=I", data, value)[0]
            at += 1
        else:
            true = {0x15: word == value, 0x45: bool(word & value)}[code]
            at += 1 + (yes if true else no)


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_the_kernels(machine):
    """Every number of the table against the C library's headers; nothing else passes."""
    # aarch64 uses the generic numbers
    if not Path(HEADERS[machine]).exists():
        pytest.skip("needs the kernel's headers (linux-libc-dev)")
    header = {
        name: int(n)
        for name, n in re.findall(
            r"#define __NR(?:3264)?_(\w+) (\d+)\n",
            Path(HEADERS[machine]).read_text().replace("\t", " "),
        )
    }
    header |= {"newfstatat": header["fstatat"]} if machine == "aarch64" else {}
    column = 1 + list(HEADERS).index(machine)
    table = {row.split(":")[0]: row.split(":")[column] for row in SYSCALLS.split()}
    assert {name: int(n) for name, n in table.items() if n != "-"} == {
        name: header[name] for name, n in table.items() if n != "-"
    }
    assert not [
        name for name, n in table.items() if n == "-" and name in header and machine == "x86_64"
    ]
    program, passing = seccomp_filter(machine, 4242), {int(n) for n in table.values() if n != "-"}
    verdicts = {n: judge(program, n, arch=ARCH[machine]) for n in range(600)}
    checked = {int(table[n]) for n in ("clone", "clone3", "kill", "tgkill", "prctl", "ioctl")}
    assert {n for n, v in verdicts.items() if v == ALLOW} == passing - checked
    assert verdicts[int(table["clone3"])] == ENOSYS and {
        v for n, v in verdicts.items() if n not in passing
    } == {EPERM}


@pytest.mark.parametrize("machine", HEADERS)
def test_arguments_are_checked(machine):
    column, program = 1 + list(HEADERS).index(machine), seccomp_filter(machine, 4242)
    number = {row.split(":")[0]: row.split(":")[column] for row in SYSCALLS.split()}

    def ask(name, *a):
        return judge(program, int(number[name]), (*a, *[0] * (6 - len(a))), ARCH[machine])

    thread = 0x3D0F00
    assert (
        ask("clone", thread) == ALLOW
        and ask("clone", 17) == EPERM
        and ask("clone", 0x10000000) == EPERM
    )
    for name in ("kill", "tgkill"):
        assert ask(name, 4242) == ALLOW and {ask(name, pid) for pid in (0, 1, -1, 4241, 4243)} == {
            EPERM
        }
    assert ask("prlimit64", 0, 7, 0, 1 << 40) == ALLOW and ask("prlimit64", 4242, 7, 0, 5) == ALLOW
    assert {ask("prlimit64", 1, 7), ask("prlimit64", 0, 7, 1), ask("prlimit64", 0, 7, 1 << 40)} == {
        EPERM
    }
    assert ask("fcntl", 5, 3) == ALLOW and {
        ask("fcntl", 5, command) for command in (8, 10, 15, 1024, 1031, 1033)
    } == {EPERM}
    assert ask("ioctl", 1, 0x5401) == ALLOW and {
        ask("ioctl", 1, request) for request in (0x5412, 0x5452, 0, 0x80045430)
    } == {EPERM}
    assert ask("prctl", 15) == ALLOW and {ask("prctl", option) for option in (1, 4, 8, 22, 38)} == {
        EPERM
    }
    assert ask("sched_getaffinity", 0) == ALLOW and ask("sched_getaffinity", 1) == EPERM


def test_another_architecture_is_killed():
    """A 64-bit process can make 32-bit calls, whose numbers mean other things."""
    assert (
        judge(seccomp_filter("x86_64", 1), 1, arch=0x40000003) == KILL
        and judge(seccomp_filter("aarch64", 1), 64, arch=0x40000028) == KILL
    )


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root has something to drop"
)
def test_roots_capabilities_are_dropped():
    read, write = os.pipe()
    if os.fork() == 0:
        confine({"landlock": False, "seccomp": False})
        os.write(write, Path("/proc/self/status").read_bytes())
        os._exit(0)
    os.wait(), os.close(write)
    status = dict(
        line.split(":\t", 1) for line in os.fdopen(read).read().split("\n") if ":\t" in line
    )
    left = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")}
    assert (
        left["CapInh"] == left["CapAmb"] == 0
        and left["CapEff"] == left["CapPrm"]
        and left["CapEff"] & ~0b100 == 0
        and status["NoNewPrivs"] == "1"
    )


# ---- the levels

WITHOUT = """
import ctypes, struct, sys
sys.path.insert(0, {folder!r})
from tools import PythonTool
libc = ctypes.CDLL(None, use_errno=True)
give = lambda value: (0x06, 0, 0, value)
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), give(0x00050026), give(0x7FFF0000)]
if {option}:
    option = (0x15, 0, 1, {option})
    lines[1:1] = [(0x15, 0, 3, 157), (0x20, 0, 0, 16), option, give(0x00050016), (0x20, 0, 0, 0)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
libc.prctl(38, 1, 0, 0, 0)
arguments = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
assert libc.prctl(22, 2, arguments, 0, 0) == 0
tool = PythonTool(1.0, "best-effort")
print(tool.level)
print(tool.run("6 * 7").text)
try:
    PythonTool(1.0, "require")
except ValueError as problem:
    print(problem)
"""


@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="takes a system call away by its x86-64 number"
)
@pytest.mark.parametrize("number, option, named", [(444, 0, "Landlock"), (9999, 22, "seccomp")])
def test_require_refuses_a_kernel_without(number, option, named):
    """No such call or option: best-effort goes on and says so, require refuses with advice."""
    code = WITHOUT.format(folder=str(HERE.parent), number=number, option=option)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    level, answer, refusal = done.stdout.strip().split("\n")
    assert answer == "42" and level.startswith("no jail: ") and named not in level
    assert (
        "cannot be jailed" in refusal
        and f"for want of {'a seccomp filter' if option else named}" in refusal
        and "best-effort" in refusal
    )


def test_levels_say_what_holds():
    assert PythonTool(sandbox="off").level == "no jail: process limits"
    with pytest.raises(ValueError, match="sandbox must be require, best-effort, off or the http"):
        PythonTool(sandbox="yes")
