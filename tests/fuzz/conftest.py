"""Makes the targets importable, with the playbook's language and the random encoder they are written in."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "playbook", HERE.parent / "wire"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
