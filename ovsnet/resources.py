"""Where the templates are: beside the package in a checkout, inside it in an installed wheel.

Pure but for looking whether a folder exists. Called by whoever renders.
"""

from __future__ import annotations

from pathlib import Path

from ovsnet.errors import OvsnetError

_PACKAGE = Path(__file__).resolve().parent


def flows_dir() -> Path:
    """The folder of the pipeline's templates, NN-name.flows.j2."""
    return _folder("flows")


def templates_dir() -> Path:
    """The folder of every other template."""
    return _folder("templates")


def _folder(name: str) -> Path:
    """Raises OvsnetError when the installation is incomplete."""
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise OvsnetError(
        f"{_PACKAGE}: the folder {name} is missing", "ovsnet is installed incompletely: install it again"
    )
