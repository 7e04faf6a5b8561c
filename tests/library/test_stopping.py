"""A download that is told to end does so, wherever its process is at that moment."""

import subprocess
import sys

from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubRepository, running_hub
from tests.support.transfers import ROOT


def test_a_signal_at_any_place_of_a_fetch_ends_it() -> None:
    with running_hub({"org/Plain": HubRepository({"m-Q4_K_M.gguf": bytes(5000)})}) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.stopped_anywhere", hub.url],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=DEADLINE_S,
        )  # fmt: skip
    assert int(done.stdout) > len(hub.requests_of("files")) > 10
