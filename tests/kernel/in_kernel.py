"""A pytest plugin: with `--in-kernel` tests run where the kernel has Open vSwitch's datapath.

That is here, if this machine's kernel has it. Elsewhere the tests are collected here as usual and run in a guest, a
user-mode Linux: it gets their names and sends each report back, so that whatever pytest makes of reports
(-v, -x, junit) works as ever. A guest that hangs or dies costs the test under way, but for one that stops as a whole,
whose test is tried once more; another one goes on with the rest. How a guest is booted is `guest`'s, what runs in it
`in_guest`'s. Loaded by tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import uml
from guest import Guest, Silent, of_checkout

from ovsnet.host.datapath import kernel_has_openvswitch

HERE = Path(__file__).parent
SLOWER = "3"
"""How many times longer than here things may take in a guest."""
_WHERE = "Timeout ("
"""What faulthandler begins with."""
_STACK = 400
"""Lines of the console in which that is, before all of its stacks."""


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


class Run:
    """The items of a session, in as many guests as it takes."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.config = session.config
        self.waiting = {item.nodeid: item for item in session.items}
        self.current: pytest.Item | None = None
        self.stage: Literal["setup", "call", "teardown"] = "setup"
        self.said: list[str] = []
        self.silent = False
        self.stopped: set[str] = set()
        """Tests whose guest stopped as a whole."""

    def all(self) -> None:
        while self.waiting:
            before = len(self.waiting)
            with self.guest() as guest:
                why = self.follow(guest)
                if self.current and self.is_the_guests(self.current, guest):
                    self.again(self.current, f"{why}, nor where it is:\n\n{guest.console()}")
                elif self.current:
                    said = "".join(f"{line}\n" for line in self.said)
                    self.lose(
                        f"{why}; what the test said:\n\n{said}\nthe end of the console:\n\n{guest.console()}"
                    )
                elif len(self.waiting) == before:
                    self.session.shouldfail = f"{why} before the first test:\n\n{guest.console()}"
            self.stop_if_told()

    def is_the_guests(self, item: pytest.Item, guest: Guest) -> bool:
        """Whether not the test hangs but all of its guest, as a user-mode Linux does once in a while that has to share
        its processor: Python would have told where it is by then. A test that does it twice is at fault."""
        return self.silent and _WHERE not in guest.console(_STACK) and item.nodeid not in self.stopped

    def again(self, item: pytest.Item, why: str) -> None:
        """In a guest of its own, with a word about it."""
        self.stopped.add(item.nodeid)
        self.current = None
        terminal: Any = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(f"\n{item.nodeid}: once more, {why}", yellow=True)

    def follow(self, guest: Guest) -> str:
        """Hand on what the guest reports until it is gone; why it is."""
        self.silent = False
        try:
            for event, nodeid, data in guest.events(self.config.option.guest_silence):
                item = self.waiting.get(nodeid)
                if item is None:
                    continue
                getattr(self, f"on_{event}")(item, data)
                if event == "finish":
                    self.stop_if_told()
        except Silent as silent:
            self.silent = True
            return str(silent)
        return "the guest ended"

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
        del self.waiting[item.nodeid]
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

    def stop_if_told(self) -> None:
        """By -x, --maxfail or a plugin."""
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)

    def guest(self) -> Guest:
        option = self.config.option
        options = ["-v", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist", f"--tb={option.tbstyle}"]
        # Before its end a hanging test tells the console where it is.
        options += ["-o", f"faulthandler_timeout={option.guest_silence * 0.8:g}"]
        options += [
            f"--rootdir={self.config.rootpath}",
            *(["-l"] if option.showlocals else []),
            *self.waiting,
        ]
        environment = {"HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis", "OVSNET_TEST_SLOWER": SLOWER}
        argv = [sys.executable, "-P", str(HERE / "in_guest.py")]
        files = {"pytest.json": json.dumps(options)}
        return of_checkout(argv, self.config.rootpath, environment, files)
