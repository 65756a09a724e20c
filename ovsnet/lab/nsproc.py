"""The small program through which the lab makes namespaces and enters them.

Run as a script (`python -I -S nsproc.py JSON`), and by tests thousands of times, so it imports only what takes no time:
modules in C, and ctypes. json, typing, contextlib and the enums of signal would double the time of its start. Called
by `namespaces` and `ovsnet lab exec|run`, which become it. A thread of `inside` uses `namespaces` and `go_in`, and has
no /proc/self in there. It knows nothing of nodes or pods.

    {"do": "hold", ...}    make net, mount, pid, uts and ipc namespaces, mount what is asked for, and
                           stay as process 1 in them: when it is killed the kernel ends all that is inside
    {"do": "enter", ...}   run a command in there: attached (stdin, tty, signals and exit code pass
                           through) or detached (a daemon, child of process 1)

Both take `cgroups`, the folders that `cgroups` made for the place: its processes are in them, and see them as roots.
A process that stays writes its own record (pid and start time) before it does anything else, so that whoever started
it may be killed at any moment and `down` still finds it.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import ctypes
import errno
import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    Options = dict[str, Any]

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20
PR_SET_PDEATHSIG = 1
NOT_ENTERED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
"""Exit codes of an `enter` whose command was not run."""
ENTERED = ("cgroup", "uts", "ipc", "net", "mnt")
"""Besides `pid`, which holds for children alone. The mount namespace is last: paths before are the machine's."""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
FORWARDED = {getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ALRM")}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def setns(descriptor: int) -> None:
    check(libc.setns(descriptor, 0), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    result = libc.mount(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), data.encode())
    check(result, f"mount {source} on {target}")


def start_time(pid: int | str) -> str:
    """Clock ticks from boot to the start of the process (proc(5), stat field 22)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()


def record(path: str, pid: int) -> None:
    """Write {pid, start} so that it is there whole or not at all."""
    temporary = f"{path}.{pid}.tmp"
    with open(temporary, "w") as file:
        file.write(f'{{"pid": {pid}, "start": "{start_time(pid)}"}}')
    os.rename(temporary, path)


def loopback_up() -> None:
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def keep_open(*kept: int) -> None:
    """Close what was inherited: above all the lab's lock, which only lasts as long as helpers do."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:  # noqa: SIM105
                os.close(int(name))
            except OSError:  # the folder's own descriptor
                pass


# hold


def hold(options: Options) -> None:
    """Make the namespaces and leave their process 1 behind; return when it is ready."""
    go_read, go_write = os.pipe()
    ready_read, ready_write = os.pipe()
    unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
    if "cgroups" in options:
        join(options, "folder")
        unshare(CLONE_NEWCGROUP)
        join(options, "leaf")
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.close(ready_read)
        # Without a record nobody would ever find this process: it goes on only once that is written.
        if os.read(go_read, 1) != b"g":
            os._exit(1)
        stay(options, ready_write)
    os.close(ready_write)
    record(options["record"], pid)
    os.write(go_write, b"g")
    answer = os.read(ready_read, 4096).decode()
    if answer != "ready":
        sys.exit(answer or "process 1 of the new namespaces ended at once")


def stay(options: Options, ready: int) -> NoReturn:
    """Process 1: set the namespaces up, then collect the dead until killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        os.setsid()
        keep_open(ready)
        set_up(options)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.chdir("/")
    except Exception as error:
        os.write(ready, str(error).encode())
        os._exit(1)
    os.write(ready, b"ready")
    os.close(ready)
    while True:
        signal.sigwaitinfo({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def set_up(options: Options) -> None:
    """Mount what is asked for: `binds` as (source, target), `run` as folders in a /run of its own."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    hostname = options["hostname"].encode()
    check(libc.sethostname(hostname, len(hostname)), "sethostname")
    mount("proc", "/proc", "proc")
    own_sys(options.get("cgroups"))
    # Opened first: the sources may be below what is mounted over next.
    binds = [(os.open(source, os.O_PATH), target) for source, target in options.get("binds", ())]
    if "run" in options:
        scratch = os.open(options["scratch"], os.O_PATH) if "scratch" in options else -1
        mount("tmpfs", "/run", "tmpfs", data="mode=755")
        for folder in options["run"]:
            os.makedirs(f"/run/{folder}", exist_ok=True)
        make_mount_points(binds, scratch)
    for descriptor, target in binds:
        mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND)
        os.close(descriptor)
    # So that what mounts in here (ip netns, containerd) is seen by all that is run in here later.
    mount("none", "/", flags=MS_REC | MS_SHARED)
    loopback_up()


def make_mount_points(binds: list[tuple[int, str]], scratch: int) -> None:
    """Make missing targets exist in here only: by overlays over the nearest folders that exist."""
    missing = [(descriptor, target) for descriptor, target in binds if not os.path.exists(target)]
    folders = {nearest_folder(target) for _, target in missing} - {"/"}
    for folder in folders:
        inside_another = any(folder.startswith(f"{other}/") for other in folders)
        if not inside_another and folder.split("/")[1] != "run":
            overlay(folder, f"/proc/self/fd/{scratch}/{folder.strip('/').replace('/', '-')}")
    for descriptor, target in missing:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "a").close()


def nearest_folder(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def overlay(folder: str, scratch: str) -> None:
    os.makedirs(f"{scratch}/upper", exist_ok=True)
    os.makedirs(f"{scratch}/work", exist_ok=True)
    layers = f"lowerdir={folder},upperdir={scratch}/upper,workdir={scratch}/work"
    try:  # noqa: SIM105
        mount("overlay", folder, "overlay", data=layers)
    except OSError:  # a kernel without overlayfs: an empty folder on the machine must do
        pass


def own_sys(hierarchies: list[dict[str, Any]] | None = None) -> None:
    """/sys of this network namespace, with the cgroups that were seen before, or the place's own as roots."""
    cgroups = os.path.ismount("/sys/fs/cgroup")
    if cgroups:
        os.chdir("/sys/fs/cgroup")  # which names them when they are hidden
    mount("sysfs", "/sys", "sysfs")
    if hierarchies:
        own_cgroups(hierarchies)
    elif cgroups:
        mount(".", "/sys/fs/cgroup", flags=MS_BIND | MS_REC)


def own_cgroups(hierarchies: list[dict[str, Any]]) -> None:
    """Mount them as the machine has them: what is mounted anew has the namespace's root at its top."""
    if all(each["at"] for each in hierarchies):
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", data="mode=755")
    for each in hierarchies:
        target = os.path.join("/sys/fs/cgroup", each["at"])
        os.makedirs(target, exist_ok=True)
        mount("cgroup", target, each["kind"], data=each["data"])
        for alias in each["aliases"]:
            os.symlink(each["at"], os.path.join("/sys/fs/cgroup", alias))


def join(options: Options, where: str) -> None:
    """Put this process into the place's cgroups."""
    for each in options.get("cgroups", ()):
        with open(f"{each[where]}/cgroup.procs", "w") as file:
            file.write("0")


# enter


class NotRunning(Exception):
    """The process that held the namespaces has ended."""


def namespaces(options: Options, kinds: Sequence[str]) -> dict[str, int]:
    """Descriptors of the namespaces that process options["pid"] holds, by kind. Raises NotRunning."""
    base = f"/proc/{options['pid']}/ns"
    descriptors: dict[str, int] = {}
    try:
        for kind in kinds:
            descriptors[kind] = os.open(f"{base}/{kind}", os.O_RDONLY)
        if start_time(options["pid"]) != options["start"]:
            raise ProcessLookupError
    except BaseException as error:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise NotRunning if isinstance(error, (FileNotFoundError, ProcessLookupError)) else error from None
    return descriptors


def enter(options: Options) -> None:
    """Run options["argv"] in the namespaces that process options["pid"] holds."""
    try:
        descriptors = namespaces(options, ("pid", *ENTERED))
    except NotRunning:
        sys.exit(f"{options['title']} is not running")
    setns(descriptors.pop("pid"))
    if "detach" in options:
        detached(options, descriptors)
    else:
        attached(options, descriptors)


def go_in(options: Options, descriptors: dict[str, int]) -> None:
    """The new process's way to its place."""
    folder = os.getcwd()
    join(options, "leaf")
    for kind in ENTERED:
        setns(descriptors[kind])
    netns = options.get("netns")
    if netns:
        if options.get("make") and not os.path.ismount(netns):
            unshare(CLONE_NEWNET)
            open(netns, "a").close()
            mount("/proc/self/ns/net", netns, flags=MS_BIND)
            loopback_up()
        else:
            descriptor = os.open(netns, os.O_RDONLY)
            setns(descriptor)
            os.close(descriptor)
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        own_sys()
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")


def execute(options: Options) -> NoReturn:
    argv = options["argv"]
    os.environ.update(options.get("env", {}))
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print(f"{argv[0]}: command not found", file=sys.stderr)
        code = NOT_FOUND
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        code = NOT_EXECUTABLE
    sys.stderr.flush()
    os._exit(code)


def attached(options: Options, descriptors: dict[str, int]) -> NoReturn:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    ended, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.set_blocking(ended, False)
        try:
            # Where this has an end the parent ended before the line above, and sends nothing any more. getppid() can't
            # tell: a parent in another PID namespace is 0.
            os.read(ended, 1)
            os._exit(1)
        except BlockingIOError:
            os.close(ended)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            go_in(options, descriptors)
        except OSError as error:
            print(f"can't enter {options['title']}: {error}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(NOT_ENTERED)
        execute(options)
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            # What a terminal sends (si_code > 0) goes to the whole process group, the child too.
            if received.si_code <= 0:
                os.kill(child, received.si_signo)
            continue
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            end_like(status)


def end_like(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
        code += 256
    os._exit(code)


def detached(options: Options, descriptors: dict[str, int]) -> None:
    """A daemon: fork twice, so that process 1 of the place collects it; tell what goes wrong before exec."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        os.waitpid(child, 0)
        problem = os.read(read, 4096).decode()
        if problem:
            sys.exit(problem)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        # /proc is still the machine's: it names this process by the machine's number.
        record(options["detach"], int(os.readlink("/proc/self")))
        keep_open(write, *descriptors.values())
        log = os.open(options["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        go_in(options, descriptors)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(options.get("env", {}))
        os.execvp(options["argv"][0], options["argv"])
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        os.write(write, f"can't start {options['argv'][0]} in {options['title']}: {name}: {error}".encode())
    os._exit(1)


if __name__ == "__main__":
    # JSON, all of whose other words are Python's as well.
    given: Options = eval(sys.argv[1], {"__builtins__": {}, "true": True, "false": False, "null": None})  # noqa: S307
    hold(given) if given["do"] == "hold" else enter(given)
