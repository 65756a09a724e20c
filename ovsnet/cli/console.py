"""Where commands print for people: colours only where they are wanted, and no text is ever cut.

On a terminal what is too wide folds or is left to the terminal to wrap; into a pipe or a file each row is one
line, without blanks at its end. Called by the subcommands; imports rich, so they import it when they print.
"""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console, RenderableType

PIPE_WIDTH = 2000
"""Columns for what is no terminal: more than any row has."""


def console(file: TextIO) -> Console:
    """A console on sys.stdout or sys.stderr."""
    width = None if file.isatty() else PIPE_WIDTH
    # Of its own accord rich only drops colours for NO_COLOR (no-color.org) and leaves bold and dim.
    if os.environ.get("NO_COLOR"):
        return Console(file=file, highlight=False, soft_wrap=True, width=width, color_system=None)
    return Console(file=file, highlight=False, soft_wrap=True, width=width)


def table(target: Console, rows: RenderableType) -> None:
    """Print a table; into a pipe without the blanks that fill its last column."""
    if target.is_terminal:
        target.print(rows)
        return
    with target.capture() as captured:
        target.print(rows)
    target.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
