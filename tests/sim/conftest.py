"""Makes the simulator, the playbook's language and discovery's API server importable by the tests here."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "playbook", HERE.parent / "discovery"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
