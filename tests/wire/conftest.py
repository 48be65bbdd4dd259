"""Makes the helpers beside the tests importable, and the playbook's language with them."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "playbook"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
