"""What is different between two large mappings of which most is the very same.

Pure. Called by whoever follows objects by key.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


def different(before: Mapping[str, _Value], after: Mapping[str, _Value]) -> list[str]:
    """Keys whose values are not the same instance, and keys that only one of both has."""
    if before is after:
        return []
    if len(before) == len(after) and list(before) == list(after):
        # The same keys in the same order, as in a copy with other values: ten times as fast as asking for each.
        other = map(operator.is_not, before.values(), after.values())
        return list(itertools.compress(after, other))
    found = [key for key, value in after.items() if before.get(key) is not value]
    return found + [key for key in before if key not in after]
