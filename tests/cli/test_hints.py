"""What magid advises is told in magictl's commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.cli.hints import translated

ROOT = Path(__file__).parents[2] / "magid"
CALL = re.compile(r"\b(GET|PUT|POST|DELETE) /")
# Not for users of magictl: metric descriptions, OpenAPI, magictl's own fallback.
OTHERS = {"api/metrics_families.py", "api/routes.py", "api/openapi.py", "cli/hints.py"}


def texts(tree: ast.AST) -> Iterator[str]:
    """Yields each string that is no docstring; a value in it is NAME."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            yield "".join(
                str(v.value) if isinstance(v, ast.Constant) else "NAME" for v in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield str(node.value)


def advice() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name not in OTHERS:
            for text in texts(ast.parse(path.read_text())):
                if CALL.search(text):
                    yield name, text


def test_every_rest_call_in_a_message_has_a_command() -> None:
    found = list(advice())
    assert len(found) > 10
    assert [(name, text) for name, text in found if CALL.search(translated(text))] == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('it is disabled; PUT /api/models/a_b/enabled with {"enabled": true} first',
         "it is disabled; magictl enable a_b first"),
        ("does not run; POST /api/models/servers/a_b/start starts it",
         "does not run; magictl start a_b starts it"),
        ("the port is taken; PUT /api/models/a_b/port changes it",
         "the port is taken; magictl set a_b port=PORT changes it"),
        ("GET /api/models/servers/a_b/logs may show why", "magictl logs a_b may show why"),
        ("GET /api/models/servers shows its state", "magictl ps -a shows its state"),
        ("put it back and POST /api/models/rescan", "put it back and magictl rescan"),
        ("a path /api/models is no call", "a path /api/models is no call"),
    ],
)  # fmt: skip
def test_translated(said: str, told: str) -> None:
    assert translated(said) == told
