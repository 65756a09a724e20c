"""The part of the benchmarks that runs on a node of the lab: starts programs and takes their time.

A program of its own on the standard library only, so that it is small and does not disturb what it
measures. Reads one job a line from standard input and writes one answer a line. Knows neither plugins
nor agents. Started by `bench_lab.Helper`.

    {"do": "calls", "calls": [{"path", "env", "stdin"}, ...]}
        executes all at once; for each: {"ms": from fork to exit, "code", "out"}
    {"do": "start", "argv", "env", "socket", "request", "then", "seconds"}
        starts a daemon, asks on its unix socket until the answer begins with "0 ", takes note of its
        memory, sends `then` and ends it with SIGTERM:
        {"ms": from fork to that first answer, "rss", "peak": in KiB, "said": the second answer}
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

Job = dict[str, Any]
_BETWEEN_QUESTIONS = 0.01
"""Seconds between two looks at whether the daemon is ready."""


def calls(job: Job) -> list[Job]:
    """All calls at once; each has its own clock."""
    poll = select.poll()
    running: dict[int, tuple[int, int, float, int]] = {}
    prepared = [prepare(call) for call in job["calls"]]
    answers: list[Job] = [{} for _ in prepared]
    for number, (path, env, stdin, stdout) in enumerate(prepared):
        begun = time.perf_counter()
        files = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        pid = os.posix_spawn(path, [path], env, file_actions=files)
        pidfd = os.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
        running[pidfd] = number, pid, begun, stdout
        os.close(stdin)
    while running:
        for pidfd, _ in poll.poll():
            ended = time.perf_counter()
            number, pid, begun, stdout = running.pop(pidfd)
            poll.unregister(pidfd)
            os.close(pidfd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out = os.pread(stdout, os.fstat(stdout).st_size, 0).decode()
            os.close(stdout)
            answers[number] = {"ms": 1000 * (ended - begun), "code": code, "out": out}
    return answers


def prepare(call: Job) -> tuple[str, dict[str, str], int, int]:
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    os.pwrite(stdin, call["stdin"].encode(), 0)
    return call["path"], call["env"], stdin, stdout


def start(job: Job) -> Job:
    """A daemon from its start until it answers well."""
    log = os.open("/var/log/bench-daemon.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    files = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    request = job["request"].encode()
    begun = time.perf_counter()
    pid = os.posix_spawn(job["argv"][0], job["argv"], {**os.environ, **job["env"]}, file_actions=files)
    os.close(log)
    answer = b""
    try:
        while not (answer := ask(job["socket"], request)).startswith(b"0 "):
            if time.perf_counter() - begun > job["seconds"]:
                raise TimeoutError(f"not ready: {answer.decode() or 'no answer'}")
            time.sleep(_BETWEEN_QUESTIONS)
        taken = time.perf_counter() - begun
        answer = ask(job["socket"], job["then"].encode())
        used = {"rss": memory(pid, "VmRSS"), "peak": memory(pid, "VmHWM")}
        return {"ms": 1000 * taken, **used, "said": answer.decode()}
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def ask(path: str, request: bytes) -> bytes:
    """The answer; empty if nobody is there."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.connect(path)
            agent.sendall(request)
            agent.shutdown(socket.SHUT_WR)
            while data := agent.recv(65536):
                answer += data
        except OSError:
            pass
    return answer


def memory(pid: int, field: str) -> int:
    """KiB (proc(5))."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


def main() -> None:
    work = {"calls": calls, "start": start}
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(work[job["do"]](job)), flush=True)


if __name__ == "__main__":
    main()
