"""How a person names a model, without a daemon and with one."""

from pathlib import Path
from typing import Any

import pytest

from magid.cli.client import Client, Refused
from magid.cli.model_names import Named, meant, named, nearest, unmatched, warning
from tests.support.magictl import Type
from tests.support.rest import ALPHA, BETA
from tests.support.running import Running

QWEN_4B = Named("qwen3_4p0b_q4km_fast", "/m/Qwen3-4B-Q4_K_M.gguf")
QWEN_8B = Named("qwen3_8p0b_q4km_balanced", "/m/Qwen3-8B-Q4_K_M.gguf")
SPLIT = Named("big_70p0b_q8_powerful", "/m/big/Big-70B-Q8_0-00001-of-00002.gguf")
SHORT = Named("tiny_1p0b_fast", "/m/Tiny.gguf")
LONGER = Named("tiny_chat_1p0b_fast", "/m/Tiny-Chat.gguf")
PULLED = Named("pulled_2p0b_q80_fast", "/m/org/Repo-GGUF/UD/Pulled-2B-UD-Q8_0.gguf")
ALL = [QWEN_4B, QWEN_8B, SPLIT, SHORT, LONGER, PULLED]


@pytest.mark.parametrize(
    ("word", "models"),
    [
        ("qwen3_4p0b_q4km_fast", [QWEN_4B]),
        ("Qwen3-4B-Q4_K_M.gguf", [QWEN_4B]),
        ("qwen3-4b-q4_k_m", [QWEN_4B]),
        ("/m/Qwen3-8B-Q4_K_M.gguf", [QWEN_8B]),
        ("big/Big-70B-Q8_0-00001-of-00002.gguf", [SPLIT]),
        ("./big/x.gguf", []),
        ("qwen3_4b", [QWEN_4B]),  # as the file spells it
        ("qwen3_4p0b", [QWEN_4B]),
        ("QWEN3.8B", [QWEN_8B]),
        ("qwen3_8b_q4km_bal", [QWEN_8B]),
        ("qwen", [QWEN_4B, QWEN_8B]),
        ("Big-70B-Q8_0", [SPLIT]),
        ("b", [SPLIT]),
        ("Tiny", [SHORT]),  # a whole name goes before a beginning
        ("tin", [SHORT, LONGER]),
        ("org/Repo-GGUF:Q8_0", [PULLED]),  # as it was pulled
        ("org/Repo-GGUF:ud-q8_0", [PULLED]),
        ("hf.co/org/Repo-GGUF", [PULLED]),
        ("org/Repo-GGUF:Q4_K_M", []),
        ("org/Repo-GGUF", []),  # any two folders
        ("4b", []),
        ("", []),
    ],
)
def test_what_a_name_means(word: str, models: list[Named]) -> None:
    assert meant(word, ALL) == [model.model_id for model in models]


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("qwen3_4p0b_q4k_fast", QWEN_4B), ("Qwen3-8B-Q4_KM", QWEN_8B), ("bgi-70b", SPLIT),
        ("70b", SPLIT), ("tiny_chta", LONGER),
    ],
)  # fmt: skip
def test_the_nearest_names(word: str, first: Named) -> None:
    assert nearest(word, ALL)[0] == first.model_id
    assert len(nearest(word, ALL)) <= 3


def test_nothing_is_near() -> None:
    assert nearest("completely-else", ALL) == []
    assert nearest("x", []) == []


def test_a_pattern_that_matches_nothing_is_warned_of() -> None:
    names = [model.model_id for model in ALL]
    patterns = ["qwen3_8b*", "qwen3_8p0b*", "tier:fast", "big*", "bgi_70p0b*", "tiny_1p0b_fast"]
    assert unmatched(patterns, names) == ["bgi_70p0b*"]
    assert warning("bgi_70p0b*", ALL) == (
        f"warning: 'bgi_70p0b*' matches no model; did you mean '{SPLIT.model_id}'?"
    )
    assert warning("zzz*", ALL) == "warning: 'zzz*' matches no model"


class ForTheGateway(Client):
    """Answers as to a token with the scope infer alone."""

    def call(self, method: str, path: str, body: object = None) -> Any:
        if path != "/v1/models":
            raise Refused("cannot do this", code="NotAllowed")
        return {"data": [{"id": QWEN_4B.model_id}, {"id": "auto"}]}


def test_a_token_for_the_gateway_alone_knows_ids() -> None:
    client = ForTheGateway("http://127.0.0.1:1")

    def run(model: str) -> str:
        if model == "qwen":
            raise Refused("cannot find model", code="model_not_found")
        return model

    assert named(client, run)("qwen") == QWEN_4B.model_id


# -- every verb ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["show {}", "cat {}", "tier {} fast", "thinking {} auto", "enable {}", "set {} ctxSize=",
     "start {}", "wait {}", "logs {} -n 1", "run {} Hello", "route --model {} Hello"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["alpha", "Alpha-Instruct-Q4_0.gguf"])
def test_every_verb_takes_a_file_and_a_beginning(
    magid: Running, type_in: Type, line: str, name: str
) -> None:
    path = magid.get(f"/api/models/{ALPHA}")["filePath"]
    done = type_in(line.format(path.rpartition("/")[2] if name.endswith(".gguf") else name))
    assert done.stderr == "" or "magictl apply" in done.stderr
    assert done.stdout


@pytest.mark.slow
def test_ambiguity_and_broken_files_are_explained(magid: Running, type_in: Type) -> None:
    twin = magid.models / "other" / "Beta-F16.gguf"
    twin.parent.mkdir()
    broken = magid.models / "Halved-7B.gguf"
    try:
        found = magid.get(f"/api/models/{BETA}")["filePath"]
        twin.write_bytes(Path(found).read_bytes())
        broken.write_bytes(b"GGUF")
        type_in("rescan")
        assert type_in("show beta", 4).stderr.splitlines()[0] == (
            "magictl: cannot tell which model 'beta' means"
        )
        said = type_in("start halved", 4).stderr
        assert said.startswith(f"magictl: cannot use {broken}\n")
        assert type_in(f"show {BETA}").stdout.startswith(f"{BETA}\n")
    finally:
        twin.unlink(missing_ok=True)
        broken.unlink(missing_ok=True)
        type_in("rescan")
