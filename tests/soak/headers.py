"""GGUF headers that are nearly right: structure-aware mutations of valid files.

A valid header is made of fields (lengths, types, counts, texts); a mutation changes some of them,
or their order, or cuts. The reader gives a header that holds together, or GgufError, in bounded
time and memory. `python -m tests.soak.headers EXECUTIONS SEED [PROCESSES]`.
"""

import multiprocessing
import os
import random
import resource
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

from magid.discovery.gguf_format import GgufHeader, parse_header
from magid.errors import GgufError
from tests.soak.figures import Figures
from tests.support import gguf_bytes as raw

# For files of at most 100 KB: 50 us is usual; a machine may be busy.
MOST_CPU_S = 1.0
MOST_MEMORY = 16 * 2**20  # bytes at once
MOST_GROWTH = 64 * 2**20  # of the process, over all executions
MOST_REASON = 1200  # characters: it may quote a key of 256, each as 4
MEASURED = 200  # one in so many executions has its memory traced, which takes 10 times as long

NUMBERS = (
    *(0, 1, 2, 3, 4, 8, 9, 12, 13, 31, 32, 63, 64, 255, 256, 257, 1023, 1024, 1025),
    *(65_535, 65_536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**61),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
Piece = bytearray
Dice = random.Random


# -- valid files -----------------------------------------------------------------------------------


def seeds(dice: Dice) -> list[list[bytes]]:
    """Each: the preamble, keys, tensors, and what follows. Joined they are valid files."""
    keys = [
        raw.text("general.architecture", "llama"),
        raw.text("general.name", "Né é😀"),
        raw.scalar("llama.context_length", raw.U32, 4096),
        raw.scalar("llama.rope.freq_base", raw.F32, 10_000.0),
        raw.array("llama.per_layer", raw.I32, [1, 2, 3]),
        raw.scalar("general.alignment", raw.U32, 32),
        raw.scalar("a.flag", raw.BOOL, 1),
    ]
    vocabulary = raw.tokenizer_keys(raw.vocabulary(dice, 1500, 1200), behind=list(raw.ENDING))
    return [whole(keys), whole(vocabulary), whole([*keys, *vocabulary[2:]]), whole([])]


def whole(keys: list[bytes]) -> list[bytes]:
    block = raw.Block()
    preamble = raw.header(n_tensors=block.count, n_keys=len(keys))
    header = [preamble, *keys, *block.infos]
    padding = bytes(-sum(map(len, header)) % 32)
    return [*header, padding + block.data]


# -- mutations -------------------------------------------------------------------------------------


def number(dice: Dice, piece: Piece) -> None:
    """A field of 4 or 8 bytes becomes a number at the edge of something, or one off."""
    width = dice.choice((4, 8))
    if len(piece) < width:
        return
    at = dice.randrange(len(piece) - width + 1)
    if dice.random() < 0.5:
        at -= at % 4
    value = dice.choice(NUMBERS)
    if dice.random() < 0.3:
        value = int.from_bytes(piece[at : at + width], "little") + dice.choice((-1, 1, 8, -8))
    piece[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def length(dice: Dice, piece: Piece) -> None:
    """The first field of a key or tensor is the length of its name."""
    if len(piece) >= 8:
        piece[:8] = struct.pack("<Q", dice.choice(NUMBERS))


def flip(dice: Dice, piece: Piece) -> None:
    if piece:
        piece[dice.randrange(len(piece))] ^= 1 << dice.randrange(8)


def cut(dice: Dice, piece: Piece) -> None:
    at = dice.randrange(len(piece) + 1)
    del piece[at : at + dice.choice((1, 4, 8, 64))]


def insert(dice: Dice, piece: Piece) -> None:
    at = dice.randrange(len(piece) + 1)
    piece[at:at] = dice.choice((dice.randbytes(dice.randint(1, 16)), bytes(8), b"\xff" * 8))


def false_key(dice: Dice, piece: Piece) -> None:
    """What looks like the next key, where a jump over a vocabulary could land."""
    at = dice.randrange(len(piece) + 1)
    piece[at:at] = dice.choice(
        (
            raw.scalar("tokenizer.ggml.bos_token_id", raw.U32, 1),
            raw.text("general.name", "false"),
            raw.array_head("tokenizer.ggml.merges", raw.STRING, dice.choice(NUMBERS)),
        )
    )


MUTATIONS: tuple[Callable[[Dice, Piece], None], ...] = (
    number, number, number, length, flip, flip, cut, insert, false_key,
)  # fmt: skip


def mutated(dice: Dice, seed: list[bytes]) -> bytes:
    pieces = [bytearray(piece) for piece in seed]
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 6))):
        dice.choice(MUTATIONS)(dice, dice.choice(pieces))
    way = dice.random()
    if way < 0.05:
        dice.shuffle(pieces)
    elif way < 0.1:
        pieces.insert(dice.randrange(len(pieces)), dice.choice(pieces))
    elif way < 0.15:
        del pieces[dice.randrange(len(pieces))]
    data = b"".join(pieces)
    return data[: dice.randrange(len(data) + 1)] if dice.random() < 0.1 else data


def prefixes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Every prefix: as a whole file, and as the beginning of one that was read."""
    for end in range(len(data)):
        yield data[:end], end
        yield data[:end], len(data)


def flips(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Every byte with each bit flipped, and with all of them."""
    changed = bytearray(data)
    for at in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed[at] ^= mask
            yield bytes(changed), len(data)
            changed[at] ^= mask


# -- one execution ---------------------------------------------------------------------------------


def problem(data: bytes, size: int) -> str:
    """What is wrong with what the reader makes of these bytes; "" if nothing is."""
    for exact in (False, True):
        began = time.process_time()
        try:
            header = parse_header(data, size, exact=exact)
        except GgufError as error:
            if not str(error).isprintable() or len(str(error)) > MOST_REASON:
                return f"an unprintable or endless reason: {str(error)[:200]!r}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        else:
            if wrong := disagreement(header, size):
                return wrong
        took = time.process_time() - began
        if took > MOST_CPU_S:
            return f"{took:.2f} s of processor time"
    return ""


def disagreement(header: GgufHeader, size: int) -> str:
    """In what the header does not hold together with itself or with its file."""
    if header.tensor_count and header.header_bytes + header.tensor_bytes > size:
        return f"{header.tensor_bytes} bytes of tensors from {header.header_bytes} in {size} bytes"
    if sum(header.type_elements.values()) != header.parameter_count:
        return "elements by type and parameters differ"
    if not 0 <= header.routed_expert_parameter_count <= header.parameter_count:
        return "more parameters of experts than of all"
    if header.parameter_count and not header.tensor_bytes:
        return "tensors without bytes"
    return ""


def measured(data: bytes, size: int) -> str:
    """The same, and the memory that it takes at once."""
    tracemalloc.start()
    try:
        wrong = problem(data, size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return wrong or (f"{peak} bytes of memory" if peak > MOST_MEMORY else "")


def run(executions: int, seed: int) -> Figures:
    """Mutations; the failures name the round, from which `seed` makes the bytes again."""
    figures, dice = Figures("mutated GGUF headers", seed), Dice(seed)
    valid, accepted = seeds(dice), 0
    for one in valid:
        accepted += not problem(b"".join(one), sum(map(len, one)))
    figures.check(accepted == len(valid), "a valid file is refused")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = [min(4.0, 60_000 / sum(map(len, one))) for one in valid]  # long ones take long
    for figures.rounds in range(1, executions + 1):
        data = mutated(dice, dice.choices(valid, weights)[0])
        size = len(data) + dice.choice((0, 0, 0, 1, 4096, 2**33))
        look = measured if figures.rounds % MEASURED == 0 else problem
        if wrong := look(data, size):
            figures.failures.append(f"round {figures.rounds}: {wrong}: {data[:200].hex()}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    figures.check(grown < MOST_GROWTH, f"the process has grown by {grown} bytes")
    figures.more["memory grown MiB"] = round(grown / 2**20, 1)
    return figures


def run_every(inputs: Iterator[tuple[bytes, int]], topic: str) -> Figures:
    figures = Figures(topic, 0)
    for figures.rounds, (data, size) in enumerate(inputs, 1):
        if wrong := problem(data, size):
            figures.failures.append(f"{wrong}: {data[:200].hex()} of {size}")
    return figures


def run_side_by_side(executions: int, seed: int, processes: int) -> Figures:
    """The same in several processes, each with a seed of its own."""
    began = time.monotonic()
    share = executions // processes
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(run, [(share, seed * 1000 + number) for number in range(processes)])
    whole_run = Figures("mutated GGUF headers", seed, rounds=share * processes)
    whole_run.took_s = time.monotonic() - began
    whole_run.failures = [f for part in parts for f in part.failures]
    whole_run.more["processes"] = processes
    whole_run.more["memory grown MiB"] = max(
        float(str(part.more["memory grown MiB"])) for part in parts
    )
    whole_run.more["a second"] = round(whole_run.rounds / whole_run.took_s)
    return whole_run


if __name__ == "__main__":
    many = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count() or 1
    done = run_side_by_side(int(sys.argv[1]), int(sys.argv[2]), many)
    print(done.line())
    sys.exit(bool(done.failures))
