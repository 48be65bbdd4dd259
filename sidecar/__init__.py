"""The sidecar: takes a pod's outbound gRPC streams and spreads them over a Service's endpoints.

Layers, imports point one way: `__main__` -> app, view -> admin, net, discovery -> splice -> balance -> wire.

`wire`, `balance`, `splice` and `net` are compiled by mypyc where the build could; EVENSTREAM_BUILD=interpreted
runs the same files as they stand, for debugging and for tests.
"""

import os
from typing import Final

BUILD_ENV: Final = "EVENSTREAM_BUILD"

if os.environ.get(BUILD_ENV) == "interpreted":
    from sidecar import interpreted

    interpreted.install()
