"""A D-Bus of a test's own: a real dbus-daemon that anybody on this machine's user may use."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.deadlines import DEADLINE_S

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """Its address. A second one in the same folder takes the address of one that has ended."""
    path = folder / "bus"
    path.unlink(missing_ok=True)
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(path=path))
    reading, writing = os.pipe()
    with os.fdopen(reading) as ready:
        daemon = subprocess.Popen(
            ["dbus-daemon", "--nofork", f"--config-file={config}", f"--print-address={writing}"],
            pass_fds=[writing],
        )
        os.close(writing)
        try:
            assert select.select([ready], [], [], DEADLINE_S)[0], "no dbus-daemon"
            assert ready.readline(), "dbus-daemon has ended"
            yield f"unix:path={path}"
        finally:
            daemon.kill()
            daemon.wait()
