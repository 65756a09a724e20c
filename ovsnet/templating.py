"""How templates of flows and of nftables are read.

What they compile to is kept where Python keeps what modules compile to: compiling takes an agent as long as all else
that it does until its flows are in. Reads and writes no other files. Called by `render` and `host.nft`; who installs
ovsnet where agents can't write makes a `Renderer` once, beside compiling modules.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import sys
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket


class _Compiled(jinja2.BytecodeCache):
    """In __pycache__ beside the folder's templates, or below PYTHONPYCACHEPREFIX. A file is good for the very text that
    it was made of and one version of Jinja; where none can be read or written, everything works as without."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """By name: a folder may be compiled in one place and be used in another."""
        return f"{name}.jinja{jinja2.__version__}"

    def _path(self, bucket: Bucket) -> Path:
        return Path(importlib.util.cache_from_source(str(self._folder / f"{bucket.key}.py")))

    def load_bytecode(self, bucket: Bucket) -> None:
        # Whatever is wrong with the file, the template is there.
        with contextlib.suppress(Exception), self._path(bucket).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        if sys.dont_write_bytecode:
            return
        path = self._path(bucket)
        whole = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
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
