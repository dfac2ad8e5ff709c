"""Makes src/vault/tests/golden-2.store, without any code of the broker: `golden.py FILE`. What it makes is
another file each time and the same store: two organizations, of which one has labels, and a job grant."""

import struct
import sys
from pathlib import Path

import custody

KEK = bytes([1]) * 32
STORE = custody.Store(bytes([0x47]) * 16, bytes(range(32)), 7)
TIME = 1_800_000_000_123
TENANT = b"6babcaad-604b-40ac-a9d7-9fd97c0b779f"
CLIENT = b"535fb089-9ff3-47b6-9bfb-4f1264799865"


def varint(number: int) -> bytes:
    more, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + varint(more) if more else bytes([low])


def field(tag: int, value: int | bytes) -> bytes:
    """A field of a protobuf."""
    if isinstance(value, int):
        return varint(tag << 3) + varint(value)
    return varint(tag << 3 | 2) + varint(len(value)) + value


def message(*fields: tuple[int, int | bytes]) -> bytes:
    return b"".join(field(tag, value) for tag, value in fields)


def record(name: bytes, secret: bytes) -> bytes:
    return message(
        (1, name), (2, b"Golden " + name), (3, TENANT), (4, 1), (5, CLIENT), (8, TIME), (9, TIME), (11, 1),
        (12, message((1, secret))),
    )


def job_grant(name: bytes, grant_id: bytes) -> tuple[bytes, bytes]:
    body = message(
        (1, name), (2, b"nightly-7"), (3, b"spiffe://kodo.test/worker/*"), (4, bytes([1, 3])), (5, 2),
        (6, TIME), (7, TIME + 3_600_000),
    )
    key = b"j/" + STORE.index(name) + grant_id
    aad = b"OBJ1" + STORE.id + key + struct.pack(">H", 1)
    sealed = custody.seal(custody.derived(STORE.root_key, b"job grants"), aad, body)
    return key, b"OBJ1" + struct.pack(">HH", 1, 1) + sealed


def main() -> None:
    pair = lambda key, value: (2, message((1, key), (2, value)))
    labels = message((1, b"labelled"), pair(b"msp", b"northwind"), pair(b"tier", b"gold"))
    STORE.records[b"labelled"] = custody.Record(record(b"labelled", b"golden~labelled"), 3, 2, labels)
    STORE.records[b"plain"] = custody.Record(record(b"plain", b"golden~plain"), 1, 1)
    rows = custody.rows_for(STORE, KEK)
    key, row = job_grant(b"labelled", bytes(range(16)))
    rows[key] = row
    parts = [custody.prefixed(part) for row in sorted(rows.items()) for part in row]
    Path(sys.argv[1]).write_bytes(b"".join(parts))


if __name__ == "__main__":
    main()
