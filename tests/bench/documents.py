"""docs/benchmarks.*: each environment's figures as JSON, and one page made of all that there are.

So each environment writes its own file and keeps the others' parts of the page. Called by `bench`, `bench_kernel`,
`bench_services` and `bench_policy`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import figures
from figures import Figure

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "benchmarks.md"
CHART = "benchmarks-kernel.svg"
_FIELDS = {field.name for field in dataclasses.fields(Figure)}
_HEADER = """\
# Benchmarks

Everything runs in a lab on one machine: several nodes share its processors. Each figure is a median, next to that of
its reference, measured in the same run in turns; the ratios are what to look at.
"""


class Section(NamedTuple):
    """What one environment of tox measures."""

    file: str
    command: str
    title: str
    text: str


GENERAL = Section("benchmarks.json", "tox -e bench", "Requests, scale, bulk traffic", "")
KERNEL = Section(
    "benchmarks-kernel.json",
    "tox -e bench-kernel",
    "Traffic on the kernel's datapath",
    f"""
![Packets per second, on one node and between two, of ovsnet and its references]({CHART})

UDP: the kernel's own packet generator (pktgen) in one pod sends frames of 128 bytes, each made anew, to another pod,
which counts and drops them as they come in; a rate is what was counted there. TCP: iperf3, one stream, where
nothing on the way segments or merges (GSO, TSO and GRO are off). First packets: of pairs of pods that the kernel has no
flow for, so that ovs-vswitchd has to be asked for each.

Through a Service: the same packets and the same streams, sent to a ClusterIP by pods that an echo, or TCP itself, has a
connection with; the Service is one of ten and has one endpoint, on the same node or the other. Opening a connection is
the time that `connect` takes, each from another port and reset at once; a sample is the median of 300.

References, on nodes of their own without ovsnet: a Linux bridge; an Open vSwitch bridge with two flows, and between
nodes a VXLAN tunnel; flannel's way, which is a Linux bridge, routes and a VXLAN device with static neighbours and
forwarding entries; host routes, the same without encapsulation. "Masquerading" is the same on nodes that have flannel's
rules for what leaves the cluster, as ovsnet's nodes have theirs: because of such rules every packet of a tunnel passes
the hooks of connection tracking and NAT. The other references' nodes have no rules at all. For first packets the bare
bridge has one flow for each pod, so that it too makes one in the kernel for each pair. For Services it is upstream's
kube-proxy in nftables mode, of the version that the lab's Kubernetes has, which gets the same Services from an API: on
nodes with flannel's way and its rules, whose bridges hand packets to netfilter (br_netfilter), as kube-proxy needs it.
""",
)
_FOLDER = """
One node with two pods, whose store is a folder with 1,000 nodes and 10,000 Services of ten endpoints each
(`tests/bench/recorded.py`), on Open vSwitch's datapath in user space. A change is a slice that gets another endpoint,
in a file of its own, until ovs-vswitchd tells of the flow for it. A first connection is connect() where the datapath
has just lost all its flows. A restart is one until what the store has is in force, as the agent's own figures tell:
it is ready before, by the flows that it finds, if the store takes more than five seconds to read. Meanwhile, and for
five seconds more, the pod and the node open connections to a Service one after the other, 50 each second at most, and
one of the pod goes on sending: one that is not answered within a second has failed. From nothing means that
ovs-vswitchd was killed as well and has lost all flows.

The large Service is beside the ten of the small cluster, in slices of a hundred. Its connections are those of another
one, whose endpoints all answer (addresses outside of the cluster that one host has), against one of a single such
endpoint.

Memory is the sum of what is resident of the agent (VmRSS) and of the process that it has for work on links: libraries
that both have count twice, and once in the figure that follows (Pss). Processor time is that of one processor; 100
changes in ten seconds make a sample.

A change by itself is half a second after the one before. Of changes that keep coming, as the ten a second of which
the processor time is told, four are taken in as they come and then those of 0.3 s together: they share the start of an
`ovs-ofctl`, a bundle, and what follows from the store.
"""
_API = """
As above, but the store is a real API server with etcd behind it, of the lab's Kubernetes, without controllers,
scheduler and kubelets (`tests/bench/api_lab.py`). A change counts from the API server's answer to the request that
makes it. The first object of the large Service counts from its request, the others follow one after the other.

Both programs run on the processors that the agent and Open vSwitch have, so a figure here holds what they take from
these: lists of all objects at each start of an agent, as JSON, and at each change a request and an event. How much
that is stands beside; the agent's own processor time does not hold it. On a cluster the API server is on a machine of
its own.
"""
_CASES = """
Two nodes with two pods each, on Open vSwitch's datapath in user space, IPv4. Each Service has one endpoint; the
reference is a connection from the same client to that endpoint itself, at its own address and port. Outside is a host
beside the cluster, which has routes to the nodes' ranges of pods for the direct connection. Opening a connection is
the time that connect() takes, each from another port and reset at once, where the datapath has flows; a sample is the
median of 100. A refusal is the same of a connection that a Service without endpoints refuses, against a pod's own
refusal.
"""
_DUAL = "\nThe same with as many endpoints of IPv6 besides; changes and connections are those of IPv4.\n"
_SERVICES, _DUAL_COMMAND = "tox -e bench-services", "tox -e bench-services -- --dual"
SERVICES = {
    ("folder", False): Section("benchmarks-services.json", _SERVICES, "Many Services", _FOLDER),
    ("folder", True): Section(
        "benchmarks-services-dual.json", _DUAL_COMMAND, "Many Services of both families", _DUAL
    ),
    ("api", False): Section(
        "benchmarks-services-api.json", _SERVICES, "Many Services, from a real API server", _API
    ),
    ("api", True): Section(
        "benchmarks-services-api-dual.json", _DUAL_COMMAND,
        "Many Services of both families, from a real API server", _DUAL,
    ),
    ("cases", False): Section(
        "benchmarks-services-cases.json", _SERVICES, "Opening a connection, by kind of Service", _CASES
    ),
}  # fmt: skip
"""By part, and whether of both families."""
POLICY = Section(
    "benchmarks-policy.json",
    "tox -e bench-policy",
    "Many NetworkPolicies",
    """
One node with a hundred pods, whose store is a folder with 99 other nodes, a hundred namespaces of a hundred pods and
of ten policies each (`tests/bench/recorded_policies.py`), on Open vSwitch's datapath in user space. A change is a file
that is written: from then until ovs-vswitchd tells of the last flow that the change makes. A restart is one until the
agent is ready; from nothing means that ovs-vswitchd was killed as well and has lost all flows.

Packets: pktgen, as above, on the kernel's datapath of a lab of its own, whose policies come and go from round to
round. What is sent is of a connection that an echo has established; the pod it goes to has the policies.
""",
)
SECTIONS = (GENERAL, KERNEL, *SERVICES.values(), POLICY)


def store(found: Sequence[Figure], about: dict[str, str], section: Section, folder: Path = DOCS) -> None:
    """Writes the section's JSON, and the page anew from all sections."""
    entries: list[dict[str, Any]] = [
        {
            **dataclasses.asdict(each),
            "ratio": each.ratio,
            "goal": each.goal,
            "met": each.met,
            "aim_met": each.aim_met,
        }
        for each in found
    ]
    content = {"about": about, "command": section.command, "figures": entries}
    (folder / section.file).write_text(json.dumps(content, indent=2) + "\n")
    (folder / PAGE).write_text(page(folder))


def page(folder: Path) -> str:
    """The whole of benchmarks.md; a section that nobody has measured yet is left out."""
    there = [section for section in SECTIONS if (folder / section.file).exists()]
    return "\n".join([_HEADER, *(render(section, folder) for section in there)])


def render(section: Section, folder: Path) -> str:
    content = json.loads((folder / section.file).read_text())
    found = [figure_of(entry) for entry in content["figures"]]
    facts = "\n".join(f"- {key}: {value}" for key, value in content["about"].items())
    return f"""\
## {section.title}

Written by `{section.command}`; the same figures with their spread are in `{section.file}`.
{section.text}
{facts}

{figures.table(found)}
"""


def figure_of(entry: dict[str, Any]) -> Figure:
    """The figure without what follows from it."""
    return Figure(**{key: value for key, value in entry.items() if key in _FIELDS})
