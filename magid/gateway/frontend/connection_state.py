"""The states of a client connection, and which state may follow which. Pure."""

from enum import Enum, auto


class ConnectionState(Enum):
    """What a connection does at the moment: one request at a time."""

    IDLE = auto()  # no byte of a next request has come
    HEAD = auto()  # a part of a request's head has come
    BODY = auto()  # the head has come whole, the body has not
    RESPONDING = auto()  # the request has come whole; its response is made or sent
    BLOCKED = auto()  # the response is sent; the next request waits, or the client takes no bytes
    LINGERING = auto()  # refused in the middle of a request: what still comes is thrown away
    CLOSED = auto()  # nothing is read any more, and nothing written but what waits already

    followers: "tuple[ConnectionState, ...]"  # from the table; a tuple compares by identity


_S = ConnectionState
TRANSITIONS: dict[ConnectionState, tuple[ConnectionState, ...]] = {
    _S.IDLE: (_S.HEAD, _S.BODY, _S.BLOCKED, _S.LINGERING, _S.CLOSED),
    _S.HEAD: (_S.BODY, _S.LINGERING, _S.CLOSED),
    _S.BODY: (_S.RESPONDING, _S.LINGERING, _S.CLOSED),
    _S.RESPONDING: (_S.IDLE, _S.BLOCKED, _S.CLOSED),
    _S.BLOCKED: (_S.IDLE, _S.CLOSED),
    _S.LINGERING: (_S.CLOSED,),
    _S.CLOSED: (),
}
for _state, _followers in TRANSITIONS.items():
    _state.followers = _followers
