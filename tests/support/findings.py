"""The names of all findings that `magictl doctor` can have, read from its code."""

import ast
from pathlib import Path

import magid.doctor.checks

FOLDER = Path(magid.doctor.checks.__file__).parent


def names(files: str = "*.py") -> frozenset[str]:
    """Those of the checks in these files.

    Raises AssertionError for a finding whose name is not written where it is made.
    """
    found = set()
    for path in sorted(FOLDER.glob(files)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path.name}:{node.lineno}"
                found.add(str(name.value))
    return frozenset(found)
