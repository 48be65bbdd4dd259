"""Makes the soak's modules and the demo's importable by the tests of this folder."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "examples" / "greeter", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
