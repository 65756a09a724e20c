"""The composition root: makes the parts of the agent, gives each what it needs, runs them.

Owns the process: its event loop, signals, the notification of systemd. Nothing else constructs an
edge. `main` is what `ovsnet agent` calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ovsnet
from ovsnet import recall, resources
from ovsnet.agent import logs, memory
from ovsnet.agent.affinity import TABLE, LongAffinity
from ovsnet.agent.agent import Agent
from ovsnet.agent.alone import alone
from ovsnet.agent.attachments import Attachments
from ovsnet.agent.cutting import Cutting
from ovsnet.agent.deniallog import DenialLog
from ovsnet.agent.departed import Departed
from ovsnet.agent.detaching import Detaching
from ovsnet.agent.entries import Entries
from ovsnet.agent.healthz import Healthz
from ovsnet.agent.hostside import HostSide
from ovsnet.agent.installer import Installer
from ovsnet.agent.leftovers import Leftovers
from ovsnet.agent.marks import Marks
from ovsnet.agent.pods import Pods
from ovsnet.agent.policing import Policing
from ovsnet.agent.recovery import Recovery
from ovsnet.agent.reporting import Wrong, eligible, figures, in_force, report
from ovsnet.agent.upkeep import Upkeep
from ovsnet.agent.wiring import Wiring
from ovsnet.cni import resultcache
from ovsnet.cni.server import CniServer
from ovsnet.config import Config
from ovsnet.host.nft import Ruleset
from ovsnet.host.worker import LinkWorker
from ovsnet.model import Node
from ovsnet.render import Renderer
from ovsnet.store import Facts, Store, choice
from ovsnet.switch.openflow import OpenFlow, management_socket
from ovsnet.switch.ovsdb import Ovsdb

if TYPE_CHECKING:
    from ovsnet.agent.metrics import Metrics

log = logging.getLogger("ovsnet.agent")


def main(config: Config) -> None:
    """Runs the agent until SIGTERM or SIGINT. Pods keep their network when it stops."""
    logs.set_up(config.log)
    # Objects of a cluster live long: looking for garbage among them every few hundred takes a good part of the start.
    gc.set_threshold(50_000, 20, 50)
    memory.set_up()
    asyncio.run(run(config))


async def run(config: Config) -> None:
    """Composes and runs the agent until a signal stops it, in order."""
    name = config.node_name or socket.gethostname().lower()
    with await alone(config.ovsdb, config.bridge):
        await _serve(config, name)


async def _serve(config: Config, name: str) -> None:
    ovsdb = Ovsdb(config.ovsdb, config.bridge)
    store = choice.make(config, name, functools.partial(_remembered, ovsdb))
    links = LinkWorker()
    links.start()
    agent, attachments = _compose(config, name, store, links, ovsdb)
    agent.on_ready = _notify_systemd
    metrics = _metrics(config, agent)
    log.info("ovsnet %s starts on node %s", ovsnet.__version__, name)
    server = CniServer(Path(config.cni_socket), attachments)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(agent.run())
    beside = [
        asyncio.create_task(choice.publish(store, name, lambda: _facts(agent), Wrong(agent))),
        asyncio.create_task(_answer_load_balancers(config, agent)),
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        await server.start()
        if metrics is not None:
            await metrics.serve(str(config.metrics.address), config.metrics.port)
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Requests under way still need OVSDB and the loop to come to an end.
        await server.close()
        if metrics is not None:
            metrics.close()
        for task in (stopped, *beside, running):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        links.close()
        log.info("stopped; pods keep their network")


async def _remembered(ovsdb: Ovsdb) -> Mapping[str, Node]:
    """The nodes that an earlier run went by; waits for OVSDB, without which nothing begins."""
    await ovsdb.wait_connected()
    return recall.nodes(ovsdb.ports(), {})


def _compose(
    config: Config, name: str, store: Store, links: LinkWorker, ovsdb: Ovsdb
) -> tuple[Agent, Attachments]:
    """The parts of the agent of the node `name`, each with what it needs of the others."""
    openflow = OpenFlow(management_socket(config.ovsdb, config.bridge))
    renderer = Renderer(resources.flows_dir(), config.policy.log_denied)
    installer = Installer(openflow)
    wiring = Wiring(ovsdb, links)
    pods = Pods(config)
    policing = Policing(openflow, renderer, pods.policed, Marks(ovsdb), lambda: installer.installed, name)
    installer.on_policies = Entries(ovsdb, config.ovsdb).renew
    attachments = Attachments(
        config,
        pods,
        ovsdb=ovsdb,
        links=links,
        wiring=wiring,
        installer=installer,
        renderer=renderer,
        policing=policing,
        detaching=Detaching(
            config, pods, ovsdb=ovsdb, links=links, wiring=wiring, installer=installer, read=resultcache.pods
        ),
    )
    agent = Agent(
        config,
        name,
        store=store,
        ovsdb=ovsdb,
        openflow=openflow,
        host=HostSide(Ruleset(resources.templates_dir())),
        renderer=renderer,
        installer=installer,
        wiring=wiring,
        pods=pods,
        upkeep=Upkeep(pods, ovsdb=ovsdb, links=links, wiring=wiring),
        recovery=Recovery(ovsdb=ovsdb, links=links, read=resultcache.pods),
        policing=policing,
    )
    _add_what_runs_beside(agent)
    _connect(agent, attachments)
    return agent, attachments


def _add_what_runs_beside(agent: Agent) -> None:
    """The agent's loop, as far as the configuration asks for it."""
    config, openflow, installer, renderer = agent.config, agent.openflow, agent.installer, agent.renderer
    pods, policing = agent.pods, agent.policing
    agent.departed = Departed(
        openflow,
        installer,
        renderer,
        config.ovsdb,
        lambda: (ip for pod in pods.all() for ip in pod.ips),
        lambda: policing.was_needed,
    )
    pods.on_gone = agent.departed.gone
    if config.policy.cut_denied:
        agent.cutting = Cutting(openflow, installer, renderer, policing, config.ovsdb)
    if config.policy.log_denied:
        agent.denial_log = DenialLog(openflow, renderer, config.policy.log_denied, policing, pods.policed)
        installer.on_meter_refused = agent.denial_log.give_up
    if config.store.kubernetes is not None and config.store.kubernetes.leftover_after:
        patience = config.store.kubernetes.leftover_after
        agent.leftovers = Leftovers(choice.own_pods(agent.store), pods, agent.complaints, patience)
    learned = next(table.number for table in renderer.tables if table.name == TABLE)
    agent.affinity = LongAffinity(openflow, installer, learned, lambda: agent.serving.services)


def _connect(agent: Agent, attachments: Attachments) -> None:
    """What requests ask of the agent's loop, and who asks whether flows are in force."""
    attachments.wake = agent.wake
    attachments.compare = agent.compare
    attachments.trouble = agent.trouble
    agent.serving.tell(functools.partial(in_force, agent))
    attachments.report = functools.partial(report, agent)
    attachments.complaints = agent.complaints


def _metrics(config: Config, agent: Agent) -> Metrics | None:
    """Imported only where it is asked for: the library takes time and memory."""
    if not config.metrics.port:
        return None
    from ovsnet.agent.denials import Denials
    from ovsnet.agent.metrics import Metrics

    policing = agent.policing
    tables = {table.name: table.number for table in agent.renderer.tables}
    denials = Denials(
        agent.openflow, tables, policing.denying, lambda: {pod.pod_key for pod in agent.pods.all()}
    )
    metrics = Metrics(functools.partial(figures, agent), denials)
    agent.news.on_programmed = metrics.programmed
    return metrics


async def _answer_load_balancers(config: Config, agent: Agent) -> None:
    """Until cancelled; returns at once where nobody asks."""
    if config.healthz_port:
        await Healthz(
            config.healthz.address,
            config.healthz_port,
            in_force=functools.partial(in_force, agent),
            eligible=functools.partial(eligible, agent),
            complaints=agent.complaints,
        ).run()


def _facts(agent: Agent) -> Facts | None:
    """What the cluster is told of this node; None while it is not ready."""
    topo = agent.topology
    if topo is None or agent.trouble() is not None:
        return None
    return Facts(
        encap=topo.wants or agent.config.encapsulation,
        address=str(topo.ends[0]) if topo.ends else "",
        mtu=topo.mtu,
    )


def _notify_systemd() -> None:
    """Tells systemd that the node is ready (sd_notify(3)), where it asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + path[1:] if path.startswith("@") else path)
            notify.send(b"READY=1")
