"""A daemon and a request to a model, where there is no network: `unshare --net`, as root.

`python -m tests.soak.offline LLAMA_SERVER FOLDER`; nothing but the loopback exists in there.
"""

import fcntl
import socket
import struct
import sys
from pathlib import Path

from tests.conftest import _free_port, _free_range
from tests.support import fleets
from tests.support.fleets import SMALL, chat
from tests.support.rest import Parts

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
_REQUEST = struct.Struct("16sh22x")  # ifreq


def raise_loopback() -> list[str]:
    """A new namespace has it, down. All interfaces there are."""
    with socket.socket() as any_socket:
        request = _REQUEST.pack(b"lo", 0)
        _, flags = _REQUEST.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, _REQUEST.pack(b"lo", flags | IFF_UP))
    return [name for _, name in socket.if_nameindex()]


def main(llama_server: Path, folder: Path) -> None:
    interfaces = raise_loopback()
    assert interfaces == ["lo"], interfaces
    given = Parts(llama_server, _free_port, _free_range)
    with (
        fleets.fleet(given, folder / "magid", fleets.write_small, ports=2) as magid,
        fleets.client(magid) as client,
    ):
        answer = client.post("/v1/chat/completions", json=chat(SMALL))
        assert answer.status_code == 200, answer.text
        log = magid.log.read_text()
    assert "WARNING" not in log, log
    assert "ERROR" not in log, log
    print("offline: started, answered, ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
