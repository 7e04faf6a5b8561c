"""Messages never say "1 models": each number that may be 1 is worded by `magid.wording`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.wording.counts import counted

PACKAGE = Path(__file__).parents[2] / "magid"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "wording")
NOUNS = """
    arguments bytes checks days dimensions digits elements entries files folders hours messages
    minutes models problems profiles processes requests restarts rows seconds servers shards
    sums tensors tokens units values words
""".split()  # noqa: SIM905  # a list of words
# Behind a number, with one word between them at most: "3 broken files".
PLURAL = re.compile(rf"^ (?:[a-z-]+ )?(?:{'|'.join(NOUNS)})\b")
LOGGED = re.compile(rf"%d (?:[a-z-]+ )?(?:{'|'.join(NOUNS)})\b")
VERBS = re.compile(r"^ (?:is|are|has|was|needs|does|as|of|to|in|and|or|for|with|the) ")
# Never 1, or no number at all. Bounds that are constants have names in capitals.
EXEMPT = {
    *("self.most", "limit", "max_bytes"),  # bounds: of a setting, a body, a file
    # These are over such a bound when they are said.
    *("len(messages)", "len(args)", "len(line)", "length", "elements"),
    *("count", "size"),  # of the files of a model, and of their paths
    *("prompt", "room"),  # as Anthropic and llama-server word it, whose clients look for it
    *("name", "verb", "request.path.rpartition('/')[2]"),
}


def slips(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield from (f"{path.name}:{node.lineno}: {text}" for text in _in_f_string(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if LOGGED.search(node.value):
                yield f"{path.name}:{node.lineno}: {node.value}"
        elif isinstance(node, ast.IfExp):
            ends = {one.value for one in (node.body, node.orelse) if isinstance(one, ast.Constant)}
            if ends == {"", "s"}:
                yield f"{path.name}:{node.lineno}: an s of its own"


def _in_f_string(node: ast.JoinedStr) -> Iterator[str]:
    for value, text in zip(node.values, node.values[1:], strict=False):
        if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
            continue
        number, words = ast.unparse(value.value), str(text.value)
        is_bound = number in EXEMPT or number.rpartition(".")[2].isupper()
        if PLURAL.match(words) and not VERBS.match(words) and not is_bound:
            yield f"{{{number}}}{words}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_message_words_a_count_by_itself(path: Path) -> None:
    assert list(slips(path)) == []


def test_one_and_many() -> None:
    assert [counted(n, "model") for n in (0, 1, 2)] == ["0 models", "1 model", "2 models"]
    assert [counted(n, "model is", "models are") for n in (1, 2)] == ["1 model is", "2 models are"]
