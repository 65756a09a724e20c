"""A connection to the API server whose other end is gone without a word, as when a node loses power.

Store and scripted server run in a network namespace of their own, in which packets between them are dropped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_api import SERVICES, service
from store_kubernetes_world import following

pytestmark = pytest.mark.slow

_DROP = "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"half-open-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_it_is_noticed_within_half_a_minute(namespace: str) -> None:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-P", __file__]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert 10 < found["noticed"] < 40
    assert found["services"] == ["default/web"]
    assert found["afterwards"] == ["default/new", "default/web"]


async def _child() -> dict[str, Any]:
    """Within the namespace: follows, is cut off, and comes back."""
    with tempfile.TemporaryDirectory() as folder:
        async with following(Path(folder)) as world:
            await asyncio.to_thread(subprocess.run, ["nft", _DROP], check=True)
            cut = time.monotonic()
            await world.until(lambda: bool(world.now.problems), 60)
            noticed = time.monotonic() - cut
            during = sorted(world.now.services)
            await asyncio.to_thread(subprocess.run, ["nft", "flush ruleset"], check=True)
            await world.watching(2)
            await world.api.put(SERVICES, service("new", 7))
            await world.until(lambda: "default/new" in world.now.services, 60)
            return {"noticed": noticed, "services": during, "afterwards": sorted(world.now.services)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_child())))
