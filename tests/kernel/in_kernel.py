"""A pytest plugin: with `--in-kernel` tests run where the kernel has Open vSwitch's datapath.

That is here, if this machine's kernel has it. Elsewhere the tests are collected here as usual and run in guests, each a
user-mode Linux with a processor of its own: they get the tests' names, a module at a time as each comes to need one,
and send each report back, so that whatever pytest makes of reports (-v, -x, junit) works as ever. Modules with the mark
`serial` are the first guest's, before any other: they measure milliseconds, and wait most of the time. A guest that
hangs or dies costs the test under way, but for one that stops as a whole, whose test is tried once more; another one
goes on with the rest. How a guest is booted is `guest`'s, what runs in it `in_guest`'s. Loaded by tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import uml
from guest import POLL, Guest, Silent, of_checkout

from ovsnet.host.datapath import kernel_has_openvswitch

HERE = Path(__file__).parent
SLOWER = "3"
"""How many times longer than here things may take in a guest."""
GUESTS = 4
"""At most side by side, if not told: each takes 1.5 GB."""
_WHERE = "Timeout ("
"""What faulthandler begins with."""
_STACK = 400
"""Lines of the console in which that is, with all of its stacks."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernel")
    group.addoption(
        "--in-kernel", action="store_true", help="run tests on the kernel's datapath, in a guest if need be"
    )
    group.addoption(
        "--guest-silence",
        type=float,
        default=150.0,
        metavar="SECONDS",
        help="a guest that reports nothing for so long is ended, and with it the test under way (%(default)s)",
    )
    group.addoption(
        "--guests",
        type=int,
        default=min(len(os.sched_getaffinity(0)), GUESTS),
        metavar="N",
        help="so many of them side by side (here %(default)s); 1 for figures that count",
    )


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    if not option.in_kernel or option.collectonly or kernel_has_openvswitch():
        return None
    if session.testsfailed and not option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    try:
        with _told(session):
            uml.kernel()
    except uml.Unbuildable as error:
        raise pytest.UsageError(f"no kernel with openvswitch: {error}") from error
    Run(session).all()
    return True


@contextlib.contextmanager
def _told(session: pytest.Session) -> Iterator[None]:
    """A build takes minutes and says how far it is."""
    capture: Any = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield


def told_where(console: str, nodeid: str) -> bool:
    """Whether Python has told where it is since this test began; of a slow one before it may have told, too."""
    return _WHERE in console.rpartition(nodeid)[2]


class Run:
    """The items of a session, handed to guests side by side, module by module."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.config = session.config
        self.waiting = {item.nodeid: item for item in session.items}
        """What has not ended."""
        self.serial: deque[list[str]] = deque()
        """What only first guests run, and were not told yet: marked modules, and what one that went left."""
        self.modules: deque[list[str]] = deque()
        """The others, of which no guest was told."""
        self.stopped: set[str] = set()
        """Tests whose guest stopped as a whole."""

    def all(self) -> None:
        for _, group in itertools.groupby(self.session.items, lambda item: item.path):
            module = list(group)
            marked = module[0].get_closest_marker("serial")
            (self.serial if marked else self.modules).append([item.nodeid for item in module])
        guests = min(self.config.option.guests, len(self.modules) + bool(self.serial))
        with contextlib.ExitStack() as stack:
            lanes = [stack.enter_context(Lane(self, number)) for number in range(max(guests, 1))]
            while self.waiting:
                heard = [lane.step() for lane in lanes]
                if not any(heard):
                    time.sleep(POLL)

    def of_lane(self, number: int) -> deque[list[str]]:
        """Where the lane's next module is."""
        return self.serial if number == 0 and self.serial else self.modules

    def stop_if_told(self) -> None:
        """By -x, --maxfail or a plugin."""
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)


class Lane:
    """One guest at a time, as a context; another one if it goes before its tests have ended."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number
        self.config = run.config
        self.guest: Guest | None = None
        self.orders = 0
        self.ordered: list[str] = []
        """What the guest was told to run and has not ended."""
        self.current: pytest.Item | None = None
        self.stage: Literal["setup", "call", "teardown"] = "setup"
        self.said: list[str] = []
        self.ended = 0
        """Tests, in the guest that runs."""

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.guest:
            self.guest.__exit__(None, None, None)
            self.guest = None

    def step(self) -> bool:
        """Hand on what the guest has reported since; whether there was any."""
        if self.guest is None:
            if not self.run.of_lane(self.number):
                return False
            self.boot()
        assert self.guest is not None
        try:
            news = self.guest.news(self.config.option.guest_silence)
        except Silent as silent:
            self.gone(str(silent), silent=True)
            return True
        if news is None:
            self.gone("the guest ended", silent=False)
            return True
        for event, nodeid, data in news:
            if event == "ready":
                self.order()
            elif item := self.run.waiting.get(nodeid):
                getattr(self, f"on_{event}")(item, data)
                if event == "finish":
                    self.run.stop_if_told()
        return bool(news)

    def boot(self) -> None:
        self.orders = self.ended = 0
        self.guest = self.made().__enter__()

    def order(self) -> None:
        """The next module, or nothing, which ends the guest. The file is named when it is whole."""
        assert self.guest is not None
        modules = self.run.of_lane(self.number)
        module = modules.popleft() if modules else []
        self.ordered += module
        self.guest.give(f"order-{self.orders}", json.dumps(module))
        self.orders += 1

    def gone(self, why: str, *, silent: bool) -> None:
        """Its test under way has failed, or is tried once more; what it was to run besides is another's."""
        guest = self.guest
        assert guest is not None
        console, stacks = guest.console(), guest.console(_STACK)
        item, rest = self.current, [nodeid for nodeid in self.ordered if nodeid in self.run.waiting]
        self.__exit__()
        if item and self.is_the_guests(item, stacks, silent):
            self.again(item, f"{why}, nor where it is:\n\n{console}")
        elif item:
            rest.remove(item.nodeid)
            said = "".join(f"{line}\n" for line in self.said)
            self.lose(f"{why}; what the test said:\n\n{said}\nthe end of the console:\n\n{console}")
        elif not self.ended and (rest or not self.orders):
            self.run.session.shouldfail = f"{why} before the first test:\n\n{console}"
        self.ordered = []
        if rest:
            (self.run.serial if self.number == 0 else self.run.modules).appendleft(rest)
        self.run.stop_if_told()

    def is_the_guests(self, item: pytest.Item, stacks: str, silent: bool) -> bool:
        """Whether not the test hangs but all of its guest, of which a user-mode Linux is never quite safe. A test that
        does it twice is at fault."""
        return silent and not told_where(stacks, item.nodeid) and item.nodeid not in self.run.stopped

    def again(self, item: pytest.Item, why: str) -> None:
        """In a guest of its own, with a word about it."""
        self.run.stopped.add(item.nodeid)
        self.current = None
        terminal: Any = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(f"\n{item.nodeid}: once more, {why}", yellow=True)

    def on_start(self, item: pytest.Item, _data: object) -> None:
        self.current, self.stage, self.said = item, "setup", []
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)

    def on_said(self, _item: pytest.Item, line: str) -> None:
        """A test that takes long tells how far it is; with an empty line that it goes on."""
        if line:
            self.said.append(line)

    def on_report(self, item: pytest.Item, data: dict[str, Any]) -> None:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
        if isinstance(report.longrepr, list):  # where and why a test was skipped; JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        self.stage = {"setup": "call"}.get(report.when, "teardown")  # type: ignore[assignment]
        item.ihook.pytest_runtest_logreport(report=report)

    def on_finish(self, item: pytest.Item, _data: object) -> None:
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        del self.run.waiting[item.nodeid]
        self.ordered.remove(item.nodeid)
        self.ended += 1
        self.current = None

    def lose(self, why: str) -> None:
        """The test under way when the guest went has failed, at the stage that it had come to."""
        item = self.current
        assert item is not None
        stages: dict[Literal["setup", "call", "teardown"], str | None] = {"teardown": None, self.stage: why}
        for stage in sorted(stages):  # a call before its teardown, as ever
            words = stages[stage]
            outcome: Literal["passed", "failed"] = "failed" if words else "passed"
            keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
            report = pytest.TestReport(item.nodeid, item.location, keywords, outcome, words, stage)
            item.ihook.pytest_runtest_logreport(report=report)
        self.on_finish(item, None)

    def made(self) -> Guest:
        option = self.config.option
        options = ["-v", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist", f"--tb={option.tbstyle}"]
        # Before its end a hanging test tells the console where it is.
        options += ["-o", f"faulthandler_timeout={option.guest_silence * 0.8:g}"]
        options += [
            f"--rootdir={self.config.rootpath}",
            *(["-l"] if option.showlocals else []),
            *self.run.waiting,
        ]
        environment = {"HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis", "OVSNET_TEST_SLOWER": SLOWER}
        argv = [sys.executable, "-P", str(HERE / "in_guest.py")]
        files = {"pytest.json": json.dumps(options)}
        return of_checkout(argv, self.config.rootpath, environment, files, processor=self.number)
