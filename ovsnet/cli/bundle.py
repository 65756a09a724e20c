"""`ovsnet support-bundle`: one archive for whoever is asked for help."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import click

from ovsnet.cli import options
from ovsnet.errors import OvsnetError


@click.command("support-bundle")
@options.config_option
@click.option(
    "--output", "target", type=click.Path(path_type=Path), metavar="FILE.tar.gz",
    help="Where to; by default here, or where temporary files are if here nothing can be written, named after node and "
    "time. An existing file is never replaced.",
)  # fmt: skip
@click.option(
    "--log", "logs", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
    help="Another log whose end is packed; may be repeated.",
)  # fmt: skip
def support_bundle(path: Path, target: Path | None, logs: tuple[Path, ...]) -> None:
    """Pack what a maintainer needs: findings, state, flows, dumps, configuration, manifests, logs.

    Values of what is called like a password, token, secret or key are hidden; look through it all the same before
    you send it: it has names and addresses of nodes and pods. Works with the agent and Open vSwitch stopped.
    """
    from ovsnet.doctor import bundle

    target = target or bundle.default_target(socket.gethostname().lower())
    if target.exists():
        raise OvsnetError(f"{target} exists already", "choose another --output, or remove it")
    items = asyncio.run(bundle.gather(path, logs))
    bundle.write(items, target)
    for item in items:
        click.echo(f"  {item.name}{f'  ({item.note})' if item.note else ''}")
    click.echo(
        f"{target.resolve()}: {len(items)} files, {target.stat().st_size // 1024 + 1} KiB, for root only"
    )
