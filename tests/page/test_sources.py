"""The page's sources: types made from the API, linted, small, and bundled within their bounds."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from magid.api.openapi import document
from magid.api.routes import ROUTES
from tests.support import npm, page, programs
from tests.support.deadlines import SET_UP_S
from tests.support.page import SOURCES

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
MOST_BYTES = 120 * 1024  # of all files, compressed
SUFFIXES = {".ts", ".tsx", ".css", ".mjs", ".html"}


def sources() -> list[Path]:
    return [
        path
        for path in SOURCES.rglob("*")
        if path.suffix in SUFFIXES
        and not {"build", "node_modules"} & set(path.relative_to(SOURCES).parts)
        and path.name != "schema.d.ts"
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with their packages, and types made from the API as it is now."""
    folder = tmp_path_factory.mktemp("webui")
    for path in [*sources(), SOURCES / "tsconfig.json"]:
        target = folder / path.relative_to(SOURCES)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    (folder / "node_modules").symlink_to(npm.installed(SOURCES))
    (folder / "openapi.json").write_text(json.dumps(document(ROUTES)))
    run(folder, "openapi-typescript", "openapi.json", "-o", "api/schema.d.ts")
    return folder


def run(folder: Path, *words: str) -> str:
    return programs.output(["npx", "--no-install", *words], folder, seconds=SET_UP_S)


def test_the_types_hold(project: Path) -> None:
    run(project, "tsc", "--project", ".")


def test_the_linter_finds_nothing(project: Path) -> None:
    run(project, "eslint", "--max-warnings", "0", ".")


def test_what_is_pure(project: Path) -> None:
    """The tests of unit/ run in Node.js; they are bundled, because older ones know no types."""
    shutil.copytree(HERE / "unit", project / "unit")
    tests = sorted(str(path.relative_to(project)) for path in (project / "unit").glob("*.test.ts"))
    assert tests
    options = ["--bundle", "--external:node:*", "--format=esm", "--outdir=out"]
    run(project, "esbuild", *tests, *options, "--log-level=error", "--out-extension:.js=.mjs")
    made = sorted(str(path) for path in (project / "out").glob("*.mjs"))
    programs.output(["node", "--test", *made], project)


def test_lines_and_files_have_bounds() -> None:
    texts = {path.name: path.read_text().splitlines() for path in sources()}
    assert [name for name, lines in texts.items() if len(lines) > 400] == []
    assert [
        f"{name}: {line}" for name, lines in texts.items() for line in lines if len(line) > 100
    ] == []


def test_the_bundle_is_small_and_names_no_other_host() -> None:
    files = [path for path in page.build().rglob("*") if path.is_file()]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in files) < MOST_BYTES
    for path in files:
        found = set(re.findall(r"https?://[\w.]+", path.read_text()))
        assert found <= {"http://www.w3.org"}, path  # the name of SVG and MathML, not fetched


def test_the_document_has_nothing_inline() -> None:
    text = (page.build() / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text)
    assert not re.search(r'(?:src|href)="(?!assets/)', text)


def test_the_build_does_nothing_twice() -> None:
    built = page.build() / "index.html"
    before = built.stat()
    page.build()
    assert built.stat() == before


def test_the_lock_names_exact_versions_and_no_host() -> None:
    npm.check_lock(SOURCES)
