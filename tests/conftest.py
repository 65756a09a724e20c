"""How hard hypothesis tries, in all tests (HYPOTHESIS_PROFILE=thorough for a run over night), and `--in-kernel`."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["in_kernel", "reliability"]

# Without a deadline: others may keep the machine busy.
settings.register_profile("brisk", deadline=None, max_examples=25, stateful_step_count=40)
settings.register_profile("thorough", deadline=None, max_examples=1000, stateful_step_count=60)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "brisk"))
