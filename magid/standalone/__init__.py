"""Programs that run inside units or as child processes, with the standard library only.

They are started by path and import nothing of magid. `exec_model` imports three of the modules
here, by path too.
"""

from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).resolve().parent
