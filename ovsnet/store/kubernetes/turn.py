"""Long work on the event loop that others get in between. Called by `reflector`."""

from __future__ import annotations

import asyncio
import time

_SLICE = 0.005
"""Seconds after which others get their turn."""


class Turn:
    """Lets others have the loop from time to time."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + _SLICE

    async def over(self) -> None:
        if time.perf_counter() > self._end:
            await asyncio.sleep(0)
            self._end = time.perf_counter() + _SLICE
