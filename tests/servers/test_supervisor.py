"""What is decided about a server's life; living it is tested with the launcher."""

import pytest

from magid.llama.log_errors import LastErrors, error_text, exit_reason
from magid.llama.spec import ServerSpec
from magid.servers.processes.supervisor import RestartPolicy, files_of, why_unusable

# As llama-server 0.7.0 prints them for a truncated file.
TRUNCATED = """\
0.00.009.886 I srv    load_model: loading model 'trunc.gguf'
0.00.010.289 E llama_model_load: error loading model: tensor data is not within the file bounds
0.00.010.312 E llama_model_load_from_file_impl: failed to load model
0.00.010.469 I srv    operator(): operator(): cleaning up before exit...
0.00.011.091 E srv  llama_server: exiting due to model loading error
"""


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0.00.010.464 E cmn  common_init_: failed to load", "cmn common_init_: failed to load"),
        ("0.00.010.464 I srv  load_model: error: none at all", ""),
        ("0.02.027.909 W srv    operator(): unauthorized: Invalid API Key", ""),
        ("error: invalid argument: --foo", "error: invalid argument: --foo"),
        ("error while handling argument", "error while handling argument"),
        ("CUDA error: out of memory", "CUDA error: out of memory"),
        ("/x/ggml.c:12: GGML_ASSERT(a == b) failed", "/x/ggml.c:12: GGML_ASSERT(a == b) failed"),
        ("terminate called after throwing", "terminate called after throwing"),
        ("load_tensors: loading model tensors", ""),
        ("no errors here", ""),
        ("\x1b[31merror: red\x1b[0m\x07", "error: red"),
        ("", ""),
        ("error: " + "x" * 1000, ("error: " + "x" * 1000)[:300]),
    ],
)
def test_error_text(line: str, text: str) -> None:
    assert error_text(line) == text


def words_of(log: str) -> LastErrors:
    errors = LastErrors()
    for line in log.splitlines():
        errors.add(line)
    return errors


@pytest.mark.parametrize(
    ("returncode", "log", "was_ready", "reason"),
    [
        (0, "", False, "exited with status 0"),
        (3, "all is well", False, "exited with status 3"),
        (
            1,
            TRUNCATED,
            False,
            "exited with status 1: llama_model_load: error loading model: tensor data is not "
            "within the file bounds",
        ),
        (
            1,
            TRUNCATED,
            True,
            "exited with status 1: srv llama_server: exiting due to model loading error",
        ),
        (-11, "", True, "crashed (SIGSEGV)"),
        (-6, "CUDA error: x", True, "crashed (SIGABRT): CUDA error: x"),
        (-15, "error: of yesterday", True, "was ended by SIGTERM"),
        (
            -9,
            "error: of yesterday",
            True,
            "crashed (SIGKILL), killed by a user or by the kernel because memory ran out",
        ),
        (-63, "", True, "was killed by signal 63"),
    ],
)
def test_exit_reason(returncode: int, log: str, was_ready: bool, reason: str) -> None:
    assert exit_reason(returncode, words_of(log), was_ready=was_ready) == reason


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RestartPolicy(), [1, 2, 4, 8, 16]),
        (RestartPolicy(first_delay_s=10, max_delay_s=30), [10, 20, 30, 30]),
        (RestartPolicy(first_delay_s=0.5, factor=1), [0.5, 0.5]),
    ],
)
def test_delays(policy: RestartPolicy, delays: list[float]) -> None:
    assert [policy.delay_s(nth) for nth in range(1, len(delays) + 1)] == delays


def test_the_delay_of_a_long_row() -> None:
    assert RestartPolicy(limit=10**6).delay_s(10**6) == 60


def test_the_projector_counts_too() -> None:
    spec = ServerSpec("m", 0, 8080, "127.0.0.1", "/m.gguf", mmproj_path="/p.gguf")
    assert files_of(spec) == ("/m.gguf", "/p.gguf")
    why = why_unusable(spec, 1, "open", "No such file or directory")
    assert why == "cannot open the projector file /p.gguf: No such file or directory"
