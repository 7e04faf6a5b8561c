"""A text in the person's editor, saved only when it is good: as visudo and systemctl edit do."""

import os
import sys
from collections.abc import Callable
from typing import Any

from magid.cli.client import Refused
from magid.cli.errors import report
from magid.cli.interaction import agrees

EDITORS = ("editor", "nano", "vim", "vi")  # as systemctl edit looks for them


def edited(text: str, name: str, save: Callable[[str], Any]) -> Any:
    """What `save` answers of the edited text; None if it was left as it is.

    `save` raises Refused for a text that is not good: the person sees why and may edit on. Where
    he does not want to, or nobody can be asked, his text stays in a file that the error names.
    """
    import tempfile  # late: few command lines need it

    folder = tempfile.mkdtemp(prefix="magictl-")
    path = os.path.join(folder, name)  # noqa: PTH118  # saves an import
    _write(path, text)
    keep = False
    try:
        while True:
            _edit(path)
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                now = file.read()
            if now == text:
                return None
            try:
                return save(now)
            except Refused as error:
                report(None, error)
                if not sys.stdin.isatty() or not agrees("Edit it again?"):
                    keep = True
                    raise Refused(f"cannot save it as it is: your text is in {path}") from None
    finally:
        if not keep:
            os.unlink(path)  # noqa: PTH108
            os.rmdir(folder)  # noqa: PTH106


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


def _edit(path: str) -> None:
    """Returns when the editor ends. Raises Refused where there is none, or it failed."""
    import shlex
    import shutil
    import subprocess

    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    command = shlex.split(chosen) if chosen else [next(filter(shutil.which, EDITORS), "")]
    if not command[0]:
        raise Refused("cannot edit: there is no editor\ntry: EDITOR=PROGRAM, or apt install nano")
    try:
        status = subprocess.run([*command, path], check=False).returncode
    except OSError as error:
        raise Refused(f"cannot run the editor {command[0]!r}: {error.strerror}") from None
    if status:
        raise Refused(f"cannot save: {command[0]} ended with status {status}; nothing was changed")
