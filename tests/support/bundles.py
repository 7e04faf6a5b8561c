"""A built page as small as can be, in the place of the one that packaging/page makes."""

from pathlib import Path

SCRIPT = "app-ABCD1234.js"
STYLE = "app-EFGH5678.css"
INDEX = (
    "<!doctype html><html lang=en><head><title>magid</title>"
    f'<link rel=stylesheet href="assets/{STYLE}">'
    f'<script type=module src="assets/{SCRIPT}"></script></head><body></body></html>'
)


def write(folder: Path, script: str = "document.title = 'up';") -> Path:
    """Returns `folder`, with the page in it. The script is long enough that gzip makes it less."""
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "assets" / SCRIPT).write_text(script + "\n" + "// words\n" * 100)
    (folder / "assets" / STYLE).write_text("body { margin: 0 }\n" * 20)
    return folder
