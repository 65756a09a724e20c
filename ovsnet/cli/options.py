"""Options that the inspection commands share. Called by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ovsnet.agent.view import View

_F = TypeVar("_F", bound=Callable[..., Any])


def config_option(function: _F) -> _F:
    """--config FILE: the same file as the agent's."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path),
        default=Path("/etc/ovsnet/agent.yaml"),
        show_default=True,
        metavar="FILE",
        help="The agent's configuration.",
    )(function)


def output_option(function: _F) -> _F:
    """-o table|json."""
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for programs.",
    )(function)


def view_of(path: Path) -> View:
    """The node's state, with a warning on stderr of what could not be had. Imports late: `--help` needs none of it."""
    from ovsnet import config
    from ovsnet.agent.view import look

    view = asyncio.run(look(config.load(path)))
    for why, missing, hint in view.warnings():
        click.echo(f"warning: {why}{f': {missing}' if missing else ''}", err=True)
        if hint:
            click.echo(f"hint: {hint}", err=True)
    return view
