import sys
from pathlib import Path

# The engine that is reported on and the loop around its admin port are tests/admin's, a sidecar as a process
# tests/net's.
for folder in (Path(__file__).parent, Path(__file__).parents[1] / "admin", Path(__file__).parents[1] / "net"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
