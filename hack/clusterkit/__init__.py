"""A Kubernetes cluster as the end-to-end tests and `hack/demo-cluster` see it. Runs in .venv.

Read in this order:
  kube      kubectl, the API, namespaces and pods; nothing here knows of Evenstream
  things    the objects that are made
  mesh      Evenstream put in, taken out, and what is told when something fails
  backends  the greeter servers: how many there are, and who is ready
  node      what only the local cluster's own node gives: processes, networks, the control plane
  load      the greeter client in a pod, steered and read from outside
  clusterdemo   what hack/demo-cluster tells
"""

import sys
from pathlib import Path

# What the client says is read by the code of the example's own demo.
_GREETER = str(Path(__file__).resolve().parents[2] / "examples" / "greeter")
if _GREETER not in sys.path:
    sys.path.insert(0, _GREETER)
