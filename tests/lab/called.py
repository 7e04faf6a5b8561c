"""What the tests, the set-up and the build of the package call: programs and Python packages.

Read from the sources, so that a program which a new test calls is in the list without a hand that
puts it there.
"""

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.lab.reached import from_quick_tests
from tests.lab.trees import ROOT

# What a machine has as a program and means something else here: words of other lists, codings of
# HTTP, verbs of our own programs, and what is called in containers only.
NO_PROGRAMS = frozenset(
    {
        *(
            "curl",
            "editor",
            "false",
            "file",
            "free",
            "gpasswd",
            "idle",
            "install",
            "ip",
            "last",
            "link",
        ),
        *("look", "more", "open", "pip", "poweroff", "pytest", "python", "reboot", "route"),
        *("script", "service", "size", "ss", "systemd", "test", "time", "timeout", "top", "true"),
        *("usermod", "view", "w", "who", "write", "yes", "zstd"),
    }
)
# The same for words of single files.
ONLY_WORDS = frozenset(
    {
        ("tests/auth/test_sandboxed.py", "prometheus"),
        ("tests/project/test_packaging.py", "node"),
        ("tests/support/fake_systemd.py", "as"),
    }
)
# Unpacked into the checkout by packaging/test-tools and bench-tools.
UNPACKED = (".cache/prometheus/usr/bin", ".cache/nginx/usr/sbin", ".cache/caddy/usr/bin")
NAME = re.compile(r"[a-z][a-z0-9._+-]*")
# A word where a shell looks for a program: at the beginning of a line or behind an operator.
IN_SHELL = re.compile(
    r"(?:^\s*|[|&;(`]\s*|\b(?:if|then|do|else|while|!|exec) +)([a-z][\w.+-]*)", re.M
)
SHELL = re.compile(r"#!/(?:usr/)?bin/(?:env )?(?:ba)?sh\b")


def programs(root: Path = ROOT) -> dict[str, str]:
    """Program -> a file that calls it; programs that this machine lacks are not seen."""
    return _programs(root, _words(root))


def quick_programs(root: Path = ROOT) -> dict[str, str]:
    """Those that the tests of `make check` call, and what these import from other tests."""
    reached = from_quick_tests(root)
    return _programs(
        root,
        (
            (str(path.relative_to(root)), name)
            for path, node in reached
            for name in _first_words(node)
        ),
    )


def _programs(root: Path, words: Iterable[tuple[str, str]]) -> dict[str, str]:
    folders = os.pathsep.join([os.environ["PATH"], *(str(root / name) for name in UNPACKED)])
    found = {n: place for place, n in words if NAME.fullmatch(n) and (place, n) not in ONLY_WORDS}
    return {
        name: place
        for name, place in sorted(found.items())
        if name not in NO_PROGRAMS and shutil.which(name, path=folders)
    }


def _words(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted([*(root / "tests").rglob("*.py"), *(root / "packaging").glob("*.py")]):
        for name in _first_words(ast.parse(path.read_text())):
            yield str(path.relative_to(root)), name
    for path in sorted([*(root / "packaging").glob("*"), *(root / ".ci").glob("*")]):
        if path.is_file() and SHELL.match(text := path.read_text()):
            lines = "\n".join(li for li in text.splitlines() if not li.lstrip().startswith("#"))
            for name in IN_SHELL.findall(lines):
                yield str(path.relative_to(root)), name


def _first_words(tree: ast.AST) -> Iterator[str]:
    """The first text of each list; the first two of each call; what a shell is told to become."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            yield from _texts(node.elts[:1])
        elif isinstance(node, ast.Call):
            yield from _texts(node.args[:2])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^exec ([a-z][\w-]+)", node.value, re.MULTILINE)


def _texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        inner = node.value if isinstance(node, ast.Starred) else node
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


# Run by a Python of their own, which packaging/clients.lock is for: they find what they import.
FOREIGN = "tests/clients/programs"


def packages(root: Path = ROOT) -> dict[str, str]:
    """Package of others -> a file that imports it, wherever it stands in there."""
    files = [
        path
        for name in ("magid", "tests", "packaging")
        for path in (root / name).rglob("*.py")
        if not path.is_relative_to(root / FOREIGN)
    ]
    own = {"magid", "tests", *(path.stem for path in (root / "packaging").glob("*.py"))}
    found = {
        name.partition(".")[0]: str(path.relative_to(root))
        for path in sorted(files)
        for name in _imported(ast.walk(ast.parse(path.read_text())))
    }
    return {n: p for n, p in found.items() if n not in own and n not in sys.stdlib_module_names}


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
