"""Makes the helper beside this file and the demo's modules importable."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "examples" / "greeter"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
