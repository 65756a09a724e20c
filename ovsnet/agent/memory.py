"""What becomes of memory that is freed: the system gets it back.

All flows of a large cluster are some 40 MB of text, for a moment, in several forms, and what ovs-ofctl prints is as
much. Left to itself the C library (malloc(3)) keeps twice that. Where it is another than glibc nothing is done here.
Called by `app`, and by the installer when it has handled all flows.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""
_LARGE = 128 * 1024
"""Bytes. It is what glibc begins with, and raises to the size of any block that has been freed if nobody sets it."""
_LIBRARY = ctypes.CDLL(None)


def set_up() -> None:
    """Large blocks never come from the heap, and are gone as soon as they are freed."""
    with contextlib.suppress(AttributeError):
        _LIBRARY.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """What is free in the heap, wherever it is: a few ms."""
    with contextlib.suppress(AttributeError):
        _LIBRARY.malloc_trim(0)
