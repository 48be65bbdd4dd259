"""For all tests: a busy machine must not fail one."""

import hypothesis

# How long an example takes says nothing on a machine that others share.
hypothesis.settings.register_profile(
    "evenstream", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("evenstream")
