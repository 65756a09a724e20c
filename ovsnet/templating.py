"""How templates of flows and of nftables are read.

What they compile to is kept where Python keeps what modules compile to: compiling takes as long as all else that an
agent does until its flows are in. Pure but for these files. Called by `render` and `host.nft`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import secrets
import sys
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket


class _Compiled(jinja2.BytecodeCache):
    """In __pycache__ beside the folder's templates, or below PYTHONPYCACHEPREFIX. A file is good for the very text that
    it was made of; where none can be read or written, everything works as without."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, bucket: Bucket) -> Path:
        return Path(importlib.util.cache_from_source(str(self._folder / f"{bucket.key}.py")))

    def load_bytecode(self, bucket: Bucket) -> None:
        with contextlib.suppress(OSError, pickle.UnpicklingError), self._path(bucket).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        if sys.dont_write_bytecode:
            return
        path = self._path(bucket)
        whole = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole.open("wb") as file:
                    bucket.write_bytecode(file)
                whole.replace(path)
            except OSError:
                whole.unlink(missing_ok=True)


def environment(folder: Path) -> jinja2.Environment:
    """For the templates of one folder. What a template asks for and nobody gave is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        bytecode_cache=_Compiled(folder),
    )
