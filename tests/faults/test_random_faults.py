"""Faults in any order against a lab of some nodes: whatever happens, some seconds later all is as it should be.

Owns which faults there are, how often, and with what they are combined; what each does is in `fault_world` and
`fault_damage`, what must hold in `fault_settle`. Everything that is random is drawn by hypothesis, so a failure
shrinks, and every step is printed as the call that repeats it. How fast the machine is can't be drawn: a failure that
needs an exact moment may take a few replays.

Every step says whether the world may settle after it (`settle`): where not, the next comes while its fault is still
there. Clocks jump in a guest of the kernel tier only: Linux has no time namespace for CLOCK_REALTIME, and the
machine's own is not ours. The same goes for what netem does to packets.

OVSNET_FAULT_STEPS=N makes about N steps, other ones each time. Without it the same ones each time: up to three minutes,
in a guest one and a half.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import fault_damage as damage
import pytest
from fault_guest import GUEST, LATE, jump_clock, tell
from fault_policies import FEW, GUARD, KINDS, TEAMS
from fault_settle import assert_all_free, assert_knocking, settle
from fault_world import DAEMONS, NODES, World
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

pytestmark = [pytest.mark.slow, pytest.mark.kernel]

STEPS = int(os.environ.get("OVSNET_FAULT_STEPS", "0"))
FEWEST_NODES, MOST_NODES = 2, NODES + 1
PER_EXAMPLE = 8 if GUEST else 12
"""Steps in one lab."""
EXAMPLES = 1 if GUEST else 4
"""Labs without OVSNET_FAULT_STEPS."""
SEED = 302 if GUEST else 54
"""Without OVSNET_FAULT_STEPS: hypothesis leaves out many kinds of steps in each lab, and so few labs need luck. With
these there are many kinds, and in a guest the clock goes back and packets come late."""
AT_ONCE = 3
"""Steps after which the world must settle."""
FIGHT = 3
"""Changes of one node's flows in one lab: an agent leaves somebody alone who goes on and on."""

NODE = st.integers(0, 3)
SECONDS = st.sampled_from([0.0, 0.5, 2.0, 6.0])
MILLISECONDS = st.integers(0, 100)
SETTLE = st.booleans()
PROCESSES = st.sampled_from([*DAEMONS, damage.LINKS])
HOWS = st.sampled_from([*damage.CUTS, *(LATE if GUEST else ())])


class Faults(RuleBasedStateMachine):
    """The steps. Arguments are plain values, so that what hypothesis prints can be run as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.script = ["from test_random_faults import Faults", "state = Faults()"]
        self.unsettled = 0
        self.fights: dict[str, int] = {}
        self.failed = False

    @functools.cached_property
    def world(self) -> World:
        with self.telling("start"):
            world = World()
            settle(world)
        return world

    @initialize(numbers=st.tuples(st.integers(0, 999), st.integers(0, 999)))
    def not_the_simplest(self, numbers: tuple[int, int]) -> None:
        """Hypothesis starts with the simplest steps that there are: the same few again and again."""
        assume(all(numbers))

    def step(self, rule: str, do: Callable[..., None], settled: bool, /, **arguments: Any) -> None:
        """One step, and after it all must be well: at once, or after the next steps."""
        words = ", ".join(f"{name}={value!r}" for name, value in {**arguments, "settle": settled}.items())
        self.script.append(f"state.{rule}({words})")
        with self.telling(self.script[-1]):
            do(**arguments)
            self.unsettled += 1
            if settled or self.unsettled >= AT_ONCE:
                self.calm()

    def calm(self) -> None:
        if self.unsettled or self.world.broken:
            settle(self.world)
        self.unsettled = 0

    @contextlib.contextmanager
    def telling(self, step: str) -> Any:
        begun = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.failed = True
            say("\n".join([f"\n# failed: {error}", "# to replay:", *self.script, "state.teardown()"]))
            raise
        say(f"{time.monotonic() - begun:6.1f} s  {step}")

    def teardown(self) -> None:
        if "world" not in self.__dict__:
            return
        try:
            if not self.failed:
                with self.telling("state.teardown()"):
                    self.calm()
                    assert_all_free(self.world)
                    assert_knocking(self.world)
        finally:
            if self.world.jumped:
                jump_clock(self.world, -self.world.jumped)
            self.world.close()

    # pods and nodes

    @rule(node=NODE, count=st.integers(1, 4), settle=SETTLE)
    def add_pods(self, node: int, count: int, settle: bool) -> None:
        self.step("add_pods", self.world.add_pods, settle, node=node, count=count)

    @rule(node=NODE, count=st.integers(1, 4), settle=SETTLE)
    def remove_pods(self, node: int, count: int, settle: bool) -> None:
        self.step("remove_pods", self.world.remove_pods, settle, node=node, count=count)

    @rule(node=NODE, milliseconds=MILLISECONDS, settle=SETTLE)
    def interrupt_add(self, node: int, milliseconds: int, settle: bool) -> None:
        self.step(
            "interrupt_add", self.of(damage.interrupt_add), settle, node=node, milliseconds=milliseconds
        )

    @rule(node=NODE, milliseconds=MILLISECONDS, settle=SETTLE)
    def interrupt_del(self, node: int, milliseconds: int, settle: bool) -> None:
        self.step(
            "interrupt_del", self.of(damage.interrupt_del), settle, node=node, milliseconds=milliseconds
        )

    @precondition(lambda self: len(self.world.lab.nodes) < MOST_NODES)
    @rule(settle=SETTLE)
    def add_node(self, settle: bool) -> None:
        self.step("add_node", self.world.add_node, settle)

    @precondition(lambda self: len(self.world.lab.nodes) > FEWEST_NODES)
    @rule(node=NODE, settle=SETTLE)
    def remove_node(self, node: int, settle: bool) -> None:
        self.step("remove_node", self.world.remove_node, settle, node=node)

    @rule(node=NODE, address=st.integers(50, 52), settle=SETTLE)
    def move_node(self, node: int, address: int, settle: bool) -> None:
        self.step("move_node", self.world.move_node, settle, node=node, address=address)

    @rule(node=NODE, encapsulation=st.sampled_from(["geneve", "gre", "vxlan", ""]), settle=SETTLE)
    def encapsulate(self, node: int, encapsulation: str, settle: bool) -> None:
        self.step("encapsulate", self.world.encapsulate, settle, node=node, encapsulation=encapsulation)

    @rule(node=NODE, how=st.sampled_from(["half", "invalid", "empty", "copy", "away"]), settle=SETTLE)
    def break_manifest(self, node: int, how: str, settle: bool) -> None:
        self.step("break_manifest", self.world.break_manifest, settle, node=node, how=how)

    # policies and labels

    @rule(
        name=st.sampled_from(FEW),
        kind=st.sampled_from([each for each in KINDS if each != GUARD]),
        settle=SETTLE,
    )
    def put_policy(self, name: str, kind: str, settle: bool) -> None:
        self.step("put_policy", self.world.policing.put, settle, name=name, kind=kind)

    @rule(name=st.sampled_from(FEW), settle=SETTLE)
    def remove_policy(self, name: str, settle: bool) -> None:
        self.step("remove_policy", self.world.policing.remove, settle, name=name)

    @rule(node=NODE, known=st.booleans(), settle=SETTLE)
    def relabel(self, node: int, known: bool, settle: bool) -> None:
        self.step("relabel", self.world.relabel, settle, node=node, known=known)

    @rule(team=st.sampled_from(TEAMS), settle=SETTLE)
    def relabel_namespace(self, team: str, settle: bool) -> None:
        self.step("relabel_namespace", self.world.policing.label_namespace, settle, team=team)

    # faults

    @rule(node=NODE, daemon=PROCESSES, seconds=SECONDS, settle=SETTLE)
    def kill(self, node: int, daemon: str, seconds: float, settle: bool) -> None:
        self.step("kill", self.of(damage.kill), settle, node=node, daemon=daemon, seconds=seconds)

    @rule(
        node=NODE,
        request=st.sampled_from(["add", "remove"]),
        count=st.integers(1, 4),
        daemon=PROCESSES,
        milliseconds=MILLISECONDS,
        settle=SETTLE,
    )
    def kill_amid(
        self, node: int, request: str, count: int, daemon: str, milliseconds: int, settle: bool
    ) -> None:
        given = {"request": request, "count": count, "daemon": daemon, "milliseconds": milliseconds}
        self.step("kill_amid", self.of(damage.kill_amid), settle, node=node, **given)

    @rule(node=NODE, daemon=PROCESSES, seconds=SECONDS, settle=SETTLE)
    def stop(self, node: int, daemon: str, seconds: float, settle: bool) -> None:
        self.step("stop", self.of(damage.stop), settle, node=node, daemon=daemon, seconds=seconds)

    @rule(node=NODE, what=st.sampled_from([*damage.HARMS, *damage.PORTS, *damage.ENDS]), settle=SETTLE)
    def harm(self, node: int, what: str, settle: bool) -> None:
        name = self.world.at(node).name
        self.fights[name] = self.fights.get(name, 0) + ("flow" in what)
        if "flow" not in what or self.fights[name] <= FIGHT:
            self.step("harm", self.of(damage.harm), settle, node=node, what=what)

    @rule(node=NODE, what=st.sampled_from(damage.GRAVE))
    def harm_rows(self, node: int, what: str) -> None:
        self.alone("harm_rows", damage.harm_rows, node=node, what=what)

    # Not again and again: it is what hypothesis takes for the simplest, and starts with.
    @precondition(lambda self: "delete_interface" not in self.script[-1])
    @rule(node=NODE)
    def delete_interface(self, node: int) -> None:
        self.alone("delete_interface", damage.delete_interface, node=node)

    @rule(node=NODE, mtu=st.sampled_from([1280, 1400, 1499]), settle=SETTLE)
    def narrow(self, node: int, mtu: int, settle: bool) -> None:
        self.step("narrow", self.of(damage.narrow), settle, node=node, mtu=mtu)

    @precondition(lambda self: GUEST is not None)
    @rule(seconds=st.sampled_from([-3600, 3600]), settle=SETTLE)
    def jump_clock(self, seconds: int, settle: bool) -> None:
        self.step("jump_clock", self.of(jump_clock), settle, seconds=seconds)

    @rule(node=NODE, how=HOWS, seconds=SECONDS, settle=SETTLE)
    def cut(self, node: int, how: str, seconds: float, settle: bool) -> None:
        self.step("cut", self.of(damage.cut), settle, node=node, how=how, seconds=seconds)

    @rule(node=NODE, seconds=SECONDS, settle=SETTLE)
    def unplug(self, node: int, seconds: float, settle: bool) -> None:
        self.step("unplug", self.of(damage.unplug), settle, node=node, seconds=seconds)

    @rule(node=NODE, seconds=SECONDS, settle=SETTLE)
    def fill_disk(self, node: int, seconds: float, settle: bool) -> None:
        self.calm()
        self.step("fill_disk", self.of(damage.fill_disk), settle, node=node, seconds=seconds)

    def alone(self, rule: str, do: Callable[..., None], /, **arguments: Any) -> None:
        """A step that neither comes upon nor is followed by others before all is well."""
        words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self.script.append(f"state.{rule}({words})")
        with self.telling(self.script[-1]):
            self.calm()
            do(self.world, **arguments)
            self.unsettled = 1
            self.calm()

    def of(self, do: Callable[..., None]) -> Callable[..., None]:
        return lambda **arguments: do(self.world, **arguments)


def say(line: str) -> None:
    print(line, flush=True)
    tell(line)


if not STEPS:
    seed(SEED)(Faults)
TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=-(-STEPS // PER_EXAMPLE) if STEPS else EXAMPLES,
    stateful_step_count=PER_EXAMPLE + 1,  # the first one is `not_the_simplest`
    database=None,
    deadline=None,
    phases=[Phase.generate]
    if GUEST or os.environ.get("OVSNET_FAULT_SHRINK") == "no"
    else [Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
