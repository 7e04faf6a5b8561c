"""Programs that run inside a unit or as a child: started by path, the standard library only.

Nothing in here imports anything of magid; `launcher`, `servers` and `doctor` know the folder.
"""

from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).resolve().parent
