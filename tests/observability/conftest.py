import sys
from pathlib import Path

# The engine that is reported on, and the loop around its admin port, are tests/admin's.
for folder in (Path(__file__).parent, Path(__file__).parents[1] / "admin"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
