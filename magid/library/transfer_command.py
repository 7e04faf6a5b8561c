"""The command line of `magi-download`, the same in a unit and as a child. Pure.

Everything in it comes from the configuration or a checked source. It holds no secret.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.errors import NotAllowed, ServerFailed
from magid.library.source import ModelSource
from magid.llama.short_runs import ShortRun

ACTIONS: Final = ("run", "pause", "remove", "list", "check")
STOP_S: Final = 20.0  # for a process to end: it finishes a write to the disk


class HubQuestion(ShortRun, frozen=True):
    """What the hub is asked by a process that ends at once."""

    def late(self) -> ServerFailed:
        return ServerFailed(f"cannot {self.purpose}: the hub did not answer in {self.seconds:g} s")

    def too_long(self) -> ServerFailed:
        return ServerFailed(f"cannot {self.purpose}: the answer is too long; {self.by_hand}")


QUESTIONS: Final = {
    "list": HubQuestion("list the models of a repository", "name a file of it", 75.0),
    "check": HubQuestion("look for newer files", "see its page at the hub", 75.0),
}
"""The actions that ask the hub, and whose answer is what they print."""


def library_of(settings: Config) -> Path:
    """Returns the folder that downloads go to. Raises NotAllowed if there is none."""
    if settings.library_root is None:
        raise NotAllowed(
            f"cannot download: library_path ({settings.library_path}) is in none of model_paths, "
            "so nothing in it would be offered; set library_path in magid.yaml to one of them",
            field="library_path",
        )
    return settings.library_root


MOST_CHECKED: Final = 32
"""Models of one question: what the hub has of them goes through one reply of the launcher."""


def arguments(
    action: str, source: ModelSource, settings: Config, more: Sequence[ModelSource] = ()
) -> list[str]:
    """Returns the arguments of `magi-download`. Raises NotAllowed without a library.

    `more`: further models that `check` is about, which have neither a tag nor a draft.
    """
    downloads = settings.downloads
    given = {
        "library": library_of(settings), "endpoint": downloads.endpoint,
        "token-path": downloads.token_path, "at-once": downloads.at_once,
        "reserve": downloads.reserve, "rate-limit": downloads.rate_limit or 0,
        "repository": source.repository, "revision": source.revision,
        "tag": source.tag, "file": source.file,
    }  # fmt: skip
    # With `=`, a value that begins with a hyphen is no option.
    words = [f"--{name}={value}" for name, value in given.items()]
    words += [f"--model={one.repository}:{one.revision}:{one.file}" for one in more]
    return [action, *words, *(["--draft"] if source.draft else [])]
