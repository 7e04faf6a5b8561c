"""The documents say what the code does: routes, settings, modules, version."""

import re
from pathlib import Path

from magid import __version__
from magid.api.routes import ROUTES
from magid.config import loading
from magid.gateway.routing.endpoints import ENDPOINTS

ROOT = Path(__file__).parents[2]


def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_every_route_is_in_the_readme_and_no_other() -> None:
    rows = re.findall(r"^\| (GET|POST|PUT|DELETE) \| `(/[^`]*)`", readme(), re.M)
    assert set(rows) == {(r.method, r.path) for r in ROUTES} | {("GET", "/openapi.json")} | {
        (endpoint.method, endpoint.path) for endpoint in ENDPOINTS
    }


def test_every_setting_is_in_the_readme_with_its_default_and_variable() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \| (?:`([A-Z_]+)`)?", readme(), re.M)
    expected = [(s.key, s.default, s.variable or "") for s in loading.settings()]
    assert rows == expected


def test_the_changelog_begins_with_the_present_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first
    assert first[1] == __version__


def test_links_between_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (ROOT / target).exists(), f"{document.name}: {target}"
