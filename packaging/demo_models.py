"""Writes tiny models to try magid with into a folder: `demo_models.py [FOLDER]`.

They are real GGUF files of some 100 KB which llama-server loads and answers with, one for each way
a model can be sorted: by size, by bits, by thinking, by kind, by number of files. Each knows one
sentence. A file that is there already is left alone.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a program, only this folder is looked in

from tests.support import ggufs  # noqa: E402  # needs the line above

FAST = "Fast demo model here: few bits per weight, one sentence, no thought."
BALANCED = "Balanced demo model here: more bits, yet still only one sentence."
POWERFUL = (
    "The powerful one should think first.\n</think>\n\nThinking demo model here: that was all."
)
SHARDED = "Sharded demo model here: two files make one."


def write_fast(folder: Path) -> None:
    path = folder / "Demo-Nano-Q4_0.gguf"
    ggufs.write_chat_model(path, name="Demo Nano", quantization="Q4_0", answer=FAST)


def write_balanced(folder: Path) -> None:
    path = folder / "Demo-Mini-F16.gguf"
    ggufs.write_chat_model(path, name="Demo Mini", quantization="F16", answer=BALANCED)


def write_powerful(folder: Path) -> None:
    ggufs.write_chat_model(
        folder / "Demo-Thinker-Q8_0.gguf",
        name="Demo Thinker",
        quantization="Q8_0",
        template=ggufs.THINKING_TEMPLATE,
        answer=POWERFUL,
    )


def write_embedding(folder: Path) -> None:
    path = folder / "Demo-Embedding-F16.gguf"
    ggufs.write_embedding_model(path, name="Demo Embedding", quantization="F16")


def write_sharded(folder: Path) -> None:
    prefix = folder / "Demo-Sharded-F16"
    ggufs.write_split_model(prefix, 2, name="Demo Sharded", quantization="F16", answer=SHARDED)


MODELS: tuple[Callable[[Path], None], ...] = (
    write_fast,
    write_balanced,
    write_powerful,
    write_embedding,
    write_sharded,
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-models-", dir=folder.parent) as work:
        for write in MODELS:
            write(Path(work))
        for path in sorted(Path(work).iterdir()):
            place(path, folder / path.name)


def place(path: Path, target: Path) -> None:
    """Move a whole file to where a scan sees it, unless there is one."""
    if target.exists():
        print(f"{target} is there already")
        return
    path.rename(target)
    print(f"{target} ({target.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".run" / "models")
