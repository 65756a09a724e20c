"""What the node's kernel is told: links, namespaces, addresses, routes, sysctls, nftables.

One of the four edges. Speaks rtnetlink with pyroute2's messages, runs `nft`, and knows nothing of Open vSwitch,
CNI or Kubernetes. Called by `agent`.

`import pyroute2` brings all that the library has, from its database to 9P: a third of an agent's start. What is needed
here are modules of it that do without the rest. So the package is there as a place to find modules in, and becomes what
it is as soon as somebody asks for anything else of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys


def _place(name: str) -> None:
    """Does nothing where somebody has imported the whole already."""
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def find(wanted: str) -> object:
        # The machinery of imports asks for others, and goes without.
        if wanted.startswith("__") and wanted not in ("__all__", "__version__"):
            raise AttributeError(wanted)
        if importlib.util.find_spec(f"{name}.{wanted}") is not None:
            return importlib.import_module(f"{name}.{wanted}")
        del package.__dict__["__getattr__"]
        try:
            loader.exec_module(package)
        except BaseException:
            package.__dict__["__getattr__"] = find
            raise
        return getattr(package, wanted)

    package.__dict__["__getattr__"] = find
    sys.modules[name] = package


_place("pyroute2")
