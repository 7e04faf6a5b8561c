"""What magictl takes until it has printed all, beside a bare Python: `python -m` this module.

Installed as by the package, against a magid with three models, in a booted Debian 12; the command
lines are typed in turn. Needs root.
"""

import json
import platform
import tempfile
from pathlib import Path

from tests.bench.bench_gguf import cpu
from tests.lab.container import booted
from tests.lab.serving import installed_in
from tests.lab.trees import RELEASES, build_all
from tests.support import ggufs

ROUNDS = 25
TARGET_MS = 150
COMPLETION_MS = 100
BARE = "python3 -I -c pass"
LINES = ("magictl --help", "magictl ls", "magictl ps", "magictl --request-timeout 1 ls -q")
AWAY = "magictl --url unix:/run/none --request-timeout 1 ls -q"
TYPING = """\
import json, resource, subprocess, sys, time
from statistics import median
lines, rounds = json.load(sys.stdin)
def spent():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime + used.ru_stime
def took(line):
    before = spent()
    subprocess.run(line.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [1000 * (now - then) for now, then in zip(spent(), before)]
times = [[took(line) for line in lines] for _ in range(rounds)]
print(json.dumps([
    (*(median(row[i][kind] for row in times) for kind in (0, 1)),
     median(row[i][0] / row[0][0] for row in times))
    for i in range(len(lines))
]))
"""


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    release = RELEASES[0]
    trees = build_all((release,), print)
    with tempfile.TemporaryDirectory(prefix="magid-bench-") as folder:
        model = ggufs.write_chat_model(Path(folder) / "Demo.gguf", quantization="F16")
        with booted(trees[release]) as container:
            daemon = installed_in(container, model)
            with daemon.client:
                daemon.wait_ready()
            lines = [BARE, *LINES, AWAY]
            wanted = json.dumps([lines, ROUNDS])
            done = container.run(["python3", "-I", "-c", TYPING], input=wanted, timeout=300)
    for line, (took, cpu_ms, ratio) in zip(lines, json.loads(done.stdout), strict=True):
        target = COMPLETION_MS if "-q" in line else TARGET_MS
        met = "met" if took <= target else "MISSED"
        print(
            f"{line:56} {took:6.0f} ms ({cpu_ms:.0f} ms of a processor), {ratio:5.2f}x a bare "
            f"Python (target {target} ms: {met})"
        )


if __name__ == "__main__":
    main()
