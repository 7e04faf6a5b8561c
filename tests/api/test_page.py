"""The page's files: who gets them, with which headers, and where there are none."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from magid.api import page
from tests.support import bundles, rest
from tests.support.bundles import SCRIPT, STYLE
from tests.support.running import Running

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def shown(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with a page."""
    folder = tmp_path_factory.mktemp("page")
    magid = parts.daemon(folder)
    bundles.write(folder / "page")
    with magid, magid.client:
        yield magid


def ask(magid: Running, path: str, **headers: str) -> httpx.Response:
    """`headers` with underscores; without compression, unless they ask for it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return magid.client.get(path, headers={"Accept-Encoding": "identity", **BROWSER, **named})


def test_a_browser_gets_the_page(shown: Running) -> None:
    answer = ask(shown, "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == bundles.INDEX
    assert answer.headers["cache-control"] == "no-cache"
    again = ask(shown, "/", If_None_Match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert shown.client.head("/", headers=BROWSER).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", None])
def test_other_clients_get_what_they_always_got(shown: Running, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    request = shown.client.build_request("GET", "/", headers=headers)
    if accept is None:
        del request.headers["accept"]
    answer = shown.client.send(request)
    assert (answer.status_code, answer.text) == (200, "Ollama is running")
    # A cache between must not show one's answer to the other.
    assert "Accept" in answer.headers["vary"]
    assert "Accept" in ask(shown, "/").headers["vary"]


def test_the_page_may_load_and_connect_to_nothing_else(shown: Running) -> None:
    for path in ("/", f"/assets/{SCRIPT}"):
        headers = ask(shown, path).headers
        policy = headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        for kind in ("script", "style", "img", "connect"):
            assert f"{kind}-src 'self'" in policy
        for rule in ("base-uri", "form-action", "frame-ancestors"):
            assert f"{rule} 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert len(headers.get_list("content-security-policy")) == 1


def test_names_with_a_hash_are_kept_for_a_year(shown: Running) -> None:
    answer = ask(shown, f"/assets/{STYLE}")
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert ask(shown, f"/assets/{SCRIPT}").headers["content-type"].startswith("text/javascript")


def test_files_come_compressed_to_who_takes_it(shown: Running) -> None:
    plain = ask(shown, f"/assets/{SCRIPT}")
    assert "content-encoding" not in plain.headers
    packed = rest.ask(
        shown.port, f"GET /assets/{SCRIPT} HTTP/1.1", "Accept-Encoding: br, gzip;q=0.5"
    )
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.content
    assert len(packed.body) < len(plain.content)
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (None, False), ("", False), ("gzip", True), ("GZIP", True), ("br, gzip;q=0.1", True),
        ("gzip;q=0", False), ("gzip; q=0.000", False), ("*", True), ("br", False),
    ],
)  # fmt: skip
def test_who_takes_gzip(given: str | None, taken: bool) -> None:
    assert page.takes_gzip(given) is taken


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../index.html", "/assets/%2e%2e%2findex.html", "/assets/..%2f..%2fetc%2fpasswd",
        "/assets/", "/assets", "/assets/app-GONE0000.js", "/index.html", "//etc/passwd",
        "/assets/%00", f"/assets/{SCRIPT}%00", f"/assets/{SCRIPT}/x", "/assets/....//index.html",
    ],
)  # fmt: skip
def test_no_path_leads_out(shown: Running, path: str) -> None:
    answer = rest.ask(shown.port, f"GET {path} HTTP/1.1", "Accept: text/html")
    rest.check_error(answer, 404)


def test_no_request_touches_the_disk(shown: Running) -> None:
    """All of it was read at the start: it may go, or be replaced, while magid runs."""
    kept = shown.folder / "elsewhere"
    (shown.folder / "page").rename(kept)
    try:
        assert ask(shown, "/").text == bundles.INDEX
        assert ask(shown, f"/assets/{SCRIPT}").status_code == 200
    finally:
        kept.rename(shown.folder / "page")


# -- a page that cannot be used ------------------------------------------------------------------


def test_without_a_page_all_else_works(parts: rest.Parts, tmp_path: Path) -> None:
    magid = parts.daemon(tmp_path)
    with magid, magid.client:
        answer = ask(magid, "/")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text.startswith(f"cannot show the page: {tmp_path / 'page'} has none; ")
        assert "packaging/page" in answer.text
        assert magid.client.get("/").text == "Ollama is running"
        assert magid.get("/livez") == {"status": "ok"}


def test_a_page_that_is_there_has_no_problem(tmp_path: Path) -> None:
    found = page.read(bundles.write(tmp_path / "page"))
    assert found.problem == ""
    assert found.index is not None
    assert found.assets.keys() == {SCRIPT, STYLE}


def test_names_without_a_hash_make_no_page(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "page")
    (folder / "assets" / "app.js").write_text("")
    found = page.read(folder)
    assert found.index is None
    assert "assets/app.js is not NAME-HASH.EXT" in found.problem


def test_what_could_block_or_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "page")
    index = folder / "index.html"
    index.unlink()
    os.mkfifo(index)
    assert "index.html is not a file" in page.read(folder).problem
    index.unlink()
    with index.open("wb") as file:
        file.truncate(page.MAX_BYTES + 1)
    assert "over 4194304 bytes" in page.read(folder).problem
    index.write_text("")
    for number in range(page.MAX_FILES):
        (folder / "assets" / f"more-{number:08}.js").write_text("")
    assert "over 64 files" in page.read(folder).problem


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("no folder")
    assert "Not a directory" in page.read(tmp_path / "page").problem
