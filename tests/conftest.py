"""For all tests: a busy machine must not fail one. Makes what they share importable."""

import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent / "shared"))

# How long an example takes says nothing on a machine that others share.
hypothesis.settings.register_profile(
    "evenstream", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("evenstream")
