"""Why a connection to magid failed, in words."""

import http.client
import socket
import ssl

_PROBE_S = 2.0


def why(error: Exception) -> str:
    """Returns the reason without types and values of Python."""
    match error:
        case http.client.RemoteDisconnected():
            return "it closed the connection without an answer"
        case http.client.IncompleteRead():
            return "the answer ended too early"
        case http.client.HTTPException():
            return "what came is not HTTP"
        case ssl.SSLCertVerificationError():
            return error.verify_message or "its certificate is not trusted"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "HTTP_REQUEST"):
            return "this port does not speak TLS; use http://"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return error.strerror or "the connection failed"
        case ValueError():
            return "the answer is not what magid sends"
        case _:
            return str(error) or "the connection failed"


def speaks_tls(host: str, port: int) -> bool:
    """Returns whether a TLS handshake succeeds there. Blocks for 2 s at most; sends no secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _PROBE_S) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except (OSError, ValueError):
        return False
