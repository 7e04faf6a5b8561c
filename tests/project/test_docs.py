"""The documents say what the code does: routes, settings, modules, version; their links work."""

import re
from collections import Counter
from pathlib import Path

import pytest

from magid import __version__
from magid.api.routes import ROUTES
from magid.config import loading
from magid.gateway.routing.endpoints import ENDPOINTS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
CODE = re.compile(r"`[^`\n]+`")


def document(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_route_is_in_its_document_and_no_other() -> None:
    rows = re.findall(
        r"^\| (GET|POST|PUT|DELETE) \| `(/[^`]*)`", document("docs/rest-api.md"), re.M
    )
    assert set(rows) == {(r.method, r.path) for r in ROUTES} | {("GET", "/openapi.json")} | {
        (endpoint.method, endpoint.path) for endpoint in ENDPOINTS
    }


def test_every_setting_is_in_its_document_with_its_default_and_variable() -> None:
    text = document("docs/configuration.md")
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \| (?:`([A-Z_]+)`)?", text, re.M)
    expected = [(s.key, s.default, s.variable or "") for s in loading.settings()]
    assert rows == expected


def test_the_changelog_begins_with_the_present_version() -> None:
    first = re.search(r"^## (\S+)", document("CHANGELOG.md"), re.M)
    assert first
    assert first[1] == __version__


def anchors(text: str) -> set[str]:
    """The fragments by which the headings can be named, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", FENCED.sub("", text), re.M):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """The targets of all links but those to other sites."""
    prose = CODE.sub("``", FENCED.sub("", text))
    targets = re.findall(r"\]\(\s*<?([^)\s>]*)", prose)
    targets += re.findall(r"^\[[^]]+\]:\s*<?([^\s>]+)", prose, re.M)
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in links(path.read_text()):
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_relative_to(ROOT), f"{target} leads out of the checkout"
        assert file.exists(), f"{target}: there is no such file"
        if fragment:
            assert file.suffix == ".md", f"{target}: only documents have headings"
            assert fragment in anchors(file.read_text()), f"{target}: there is no such heading"


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        path = new.pop()
        reached.add(path)
        named = {(path.parent / t.partition("#")[0]).resolve() for t in links(path.read_text())}
        new |= {p for p in named if p.suffix == ".md"} - reached
    assert set(DOCUMENTS) <= reached


def test_headings_are_named_as_github_names_them() -> None:
    text = "# A `b`: C, d\n```\n# no heading\n```\n## Same\n## Same\n### [Link](x.md) e-f\n"
    assert anchors(text) == {"a-b-c-d", "same", "same-1", "link-e-f"}
    assert links("[a](b.md#c) `[no](x)` [d](https://e/f) ![g](h.png)\n\n[i]: j.md\n") == [
        "b.md#c", "h.png", "j.md",
    ]  # fmt: skip
