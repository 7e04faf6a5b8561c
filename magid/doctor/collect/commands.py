"""Runs programs for the collector: argument lists, no shell, a timeout."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from magid.standalone import SCRIPTS

PROBE: Final = SCRIPTS / "probe_sandbox.py"
MAGI: Final = "magi"
_ANSWER_S: Final = 10.0


class CannotCollect(Exception):
    """A fact cannot be collected; the text says why."""


def output_of(argv: Sequence[str], timeout_s: float = _ANSWER_S) -> str:
    """Returns the program's output, for any exit status. Raises CannotCollect."""
    return _run(argv, timeout_s).stdout


def ask_as_magi(*words: str, timeout_s: float = _ANSWER_S) -> Any:
    """Runs probe_sandbox.py as user magi with its groups. Needs root. Raises CannotCollect."""
    try:
        magi = pwd.getpwnam(MAGI)
    except KeyError:
        raise CannotCollect("there is no user magi") from None
    groups = os.getgrouplist(MAGI, magi.pw_gid)
    argv = [sys.executable, "-I", "-S", "-", *words]
    # The program goes in as text: the user need not be able to read this folder.
    done = _run(argv, timeout_s, PROBE.read_text(), user=magi.pw_uid, group=magi.pw_gid,
                extra_groups=groups)  # fmt: skip
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise CannotCollect(
            f"as the user magi, Python said: {done.stderr.strip()[-200:]}"
        ) from None


def _run(
    argv: Sequence[str], timeout_s: float, text: str = "", **options: Any
) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            **options,
        )
    except subprocess.TimeoutExpired:
        raise CannotCollect(f"{argv[0]} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise CannotCollect(f"cannot run {argv[0]}: {error.strerror}") from None
