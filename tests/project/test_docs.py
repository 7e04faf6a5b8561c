"""The documents say what the code does: routes, settings, modules, version; their links work."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from magid import __version__
from magid.api.routes import ROUTES
from magid.cli.setting_keys import KEYS, default_of, like
from magid.config import loading
from magid.gateway.routing.endpoints import ENDPOINTS
from magid.llama.options import allowed_options
from magid.llama.runtime_settings import SETTINGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
CODE = re.compile(r"`[^`\n]+`")


def document(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_route_is_in_its_document_and_no_other() -> None:
    rows = re.findall(
        r"^\| (GET|POST|PUT|DELETE) \| `(/[^`]*)` \| ([^|]*) \|", document("docs/rest-api.md"), re.M
    )
    of_magid = {(r.method, r.path, r.summary.rstrip(".")) for r in ROUTES}
    of_gateway = {(e.method, e.path, e.summary) for e in ENDPOINTS}
    itself = {("GET", "/openapi.json", "This document")}
    assert set(rows) == of_magid | itself | of_gateway


def test_every_endpoint_of_the_gateway_is_in_the_table_of_dialects() -> None:
    section = document("docs/gateway.md").partition("\n## Dialects\n")[2].partition("\n### ")[0]
    named = set()
    for row in section.splitlines():
        cells = row.split(" | ")
        if row.startswith("| ") and len(cells) > 1:
            named |= set(re.findall(r"`(/[^`]*)`", cells[1]))
    assert named == {endpoint.path for endpoint in ENDPOINTS}


# Where the kind of an event is named: the change that the daemon announces, or the event itself.
EVENTS = re.compile(r'\b(?:Change\(|yield |publish\(|event(?:_of)?\()\s*"(\w+)"')
SENDERS = [
    *ROOT.glob("magid/control/*.py"),
    ROOT / "magid/api/events.py",
    ROOT / "magid/api/sse.py",
]


def test_every_event_of_the_stream_is_in_its_document_and_known_to_the_page() -> None:
    sent = {kind for path in SENDERS for kind in EVENTS.findall(path.read_text())}
    section = document("docs/webui.md").partition("\n## Events\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w.*?) \|", section, re.M)
    assert {kind for row in rows for kind in re.findall(r"`(\w+)`", row)} == sent
    kinds = document("magid/webui/stream/state.ts").partition("KINDS = [")[2].partition("]")[0]
    assert {*re.findall(r'"(\w+)"', kinds), "resync"} == sent


def settings_of_the_file() -> list[tuple[str, ...]]:
    return [
        (f"`{s.key}`", f"`{s.default}`", f"`{s.variable}`" if s.variable else "", s.description)
        for s in loading.settings()
    ]


def keys_of_set() -> list[tuple[str, ...]]:
    return [
        (f"`{s.key}`", f"{s.meaning}", s.allowed, default_of(s), f"`{like(s)}`",
         f"`{s.options[0]}`" if s.options else "")
        for s in KEYS
    ]  # fmt: skip


def extra_arguments() -> list[tuple[str, ...]]:
    return [
        (", ".join(f"`{name}`" for name in names.split(", ")), says or "a switch")
        for names, says in allowed_options().items()
    ]


def server_defaults() -> list[str]:
    """The section of etc/magid.yaml."""
    shown = {s.key: s.default.strip('"') for s in loading.settings()}
    return [
        line
        for s in SETTINGS
        for line in (f"#  # {s.description}", f"#  {s.name}: {shown[f'server_defaults.{s.name}']}")
    ]


def rows(cells: list[tuple[str, ...]]) -> list[str]:
    return ["| --- " * len(cells[0]) + "|", *(f"| {' | '.join(row)} |" for row in cells)]


# File -> the line before each part of it that is made -> the lines of that part.
MADE: dict[str, dict[str, list[str]]] = {
    "docs/configuration.md": {
        "| Setting | Default | Variable | |": rows(settings_of_the_file()),
        "| Key | | Range | Default | Example | Option of llama-server |": rows(keys_of_set()),
        "| Argument | Takes |": rows(extra_arguments()),
    },
    "etc/magid.yaml": {"#server_defaults:": server_defaults()},
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_from_tables_is_as_it_would_be_made_now(name: str) -> None:
    """`UPDATE_DOCUMENTS=1` writes it."""
    text = document(name)
    for head, lines in MADE[name].items():
        before, _, rest = text.partition(f"\n{head}\n")
        after = rest.partition("\n\n")[2]
        text = "\n".join([before, head, *lines, *([""] if after else []), after])
    if os.environ.get("UPDATE_DOCUMENTS"):
        (ROOT / name).write_text(text)
    assert document(name) == text


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
