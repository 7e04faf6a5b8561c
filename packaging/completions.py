"""Writes completions of magictl for bash, zsh and fish: `completions.py ROOT`, below ROOT."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from magid.cli import completion_grammar, completion_shells  # noqa: E402  # needs the line above
from magid.cli import main as cli  # noqa: E402  # likewise

PLACES = {
    "usr/share/bash-completion/completions/magictl": "bash",
    "usr/share/zsh/vendor-completions/_magictl": "zsh",
    "usr/share/fish/vendor_completions.d/magictl.fish": "fish",
}


def main(root: Path) -> None:
    program = completion_grammar.read(cli.parser())
    for name, shell in PLACES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion_shells.SHELLS[shell](program))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
