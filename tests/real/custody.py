"""The format of what the broker stores, written down once more from its documentation, on Python's
`cryptography`: reads and makes backups, which hold a store whole."""

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"kodo-broker sealed 1"
NO_INDEX = bytes(32)
ROOT_GENERATION = 2


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def derived(key: bytes, purpose: bytes) -> bytes:
    return _hkdf(key, LABEL, purpose, 32)


def seal(key: bytes, aad: bytes, text: bytes) -> bytes:
    salt, nonce = os.urandom(32), os.urandom(12)
    once = _hkdf(key, salt, LABEL + aad, 64)
    return salt + once[32:] + nonce + AESGCM(once[:32]).encrypt(nonce, text, aad)


def unseal(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    salt, commitment, nonce, text = sealed[:32], sealed[32:64], sealed[64:76], sealed[76:]
    once = _hkdf(key, salt, LABEL + aad, 64)
    assert hmac.compare_digest(once[32:], commitment), "sealed under another key or for another place"
    return AESGCM(once[:32]).decrypt(nonce, text, aad)


def prefixed(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def kek_id(kek: bytes) -> bytes:
    return b"file-" + hashlib.sha256(b"kodo-broker kek id\0" + kek).digest()[:8].hex().encode()


class Reader:
    """Takes fields off the front."""

    def __init__(self, rest: bytes):
        self.rest = rest

    def take(self, length: int) -> bytes:
        taken, self.rest = self.rest[:length], self.rest[length:]
        assert len(taken) == length, "cut off"
        return taken

    def number(self, form: str) -> int:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def expect(self, *fields: bytes) -> None:
        for wanted in fields:
            assert self.take(len(wanted)) == wanted


@dataclass
class Keys:
    """The KEK, and the store that it is the one of."""

    kek: bytes
    store: bytes

    def aad(self, kind: bytes, index: bytes, generation: int) -> bytes:
        place = self.store + prefixed(kind) + index + struct.pack(">I", generation)
        return b"OBK1" + place + prefixed(kek_id(self.kek))

    def wrap(self, key: bytes, kind: bytes, index: bytes, generation: int) -> bytes:
        sealed = seal(self.kek, self.aad(kind, index, generation), key)
        return b"OBK1" + struct.pack(">HI", 1, generation) + prefixed(kek_id(self.kek)) + sealed

    def unwrap(self, wrapped: bytes, kind: bytes, index: bytes) -> tuple[bytes, int]:
        reader = Reader(wrapped)
        reader.expect(b"OBK1", struct.pack(">H", 1))
        generation = reader.number("I")
        reader.expect(prefixed(kek_id(self.kek)))
        return unseal(self.kek, self.aad(kind, index, generation), reader.rest), generation


@dataclass
class Record:
    """An organization's record, opened: its protobuf, and what its envelope says."""

    body: bytes
    version: int
    generation: int
    # The protobuf of its labels, if it has any: then the record has format 2.
    labels: bytes = b""

    @property
    def format(self) -> int:
        return 2 if self.labels else 1


def record_aad(store: bytes, index: bytes, record: Record, sealed_labels: bytes) -> bytes:
    head = b"OBR1" + store + prefixed(b"organization") + index
    return head + struct.pack(">QIHH", record.version, record.generation, 1, record.format) + sealed_labels


def labels_aad(store: bytes, index: bytes, record: Record) -> bytes:
    return b"OBL1" + store + index + struct.pack(">QIH", record.version, record.generation, 2)


@dataclass
class Store:
    """What is in a store, by the id of each organization."""

    id: bytes
    root_key: bytes
    epoch: int
    records: dict[bytes, Record] = field(default_factory=dict)

    def index(self, organization_id: bytes) -> bytes:
        key = derived(self.root_key, b"index")
        return hmac.digest(key, b"organization\0" + organization_id, "sha256")

    def row_sum(self, rows: dict[bytes, bytes]) -> bytes:
        """The sum in the manifest: the XOR of a digest of each record."""
        key, total = derived(self.root_key, b"manifest rows"), 0
        for index, row in rows.items():
            total ^= int.from_bytes(hmac.digest(key, index + row, "sha256"))
        return total.to_bytes(32)

    def manifest_aad(self) -> bytes:
        return b"OBM1" + self.id + struct.pack(">H", 1)


def organization_id(body: bytes) -> bytes:
    """The first field of the record's protobuf."""
    assert body[0] == 0x0A
    return body[2 : 2 + body[1]]


def frame_aad(store: bytes, number: int) -> bytes:
    return b"OBX1" + struct.pack(">H", 1) + store + struct.pack(">Q", number)


def rows_of(backup: bytes, kek: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The store's id and the rows of a backup; the last of each is the one that counts."""
    reader = Reader(backup)
    reader.expect(b"OBX1", struct.pack(">H", 1))
    store = reader.take(16)
    wrapped = reader.take(reader.number("H"))
    key, _ = Keys(kek, store).unwrap(wrapped, b"backup", NO_INDEX)
    rows, number = {}, 0
    while True:
        text = Reader(unseal(key, frame_aad(store, number), reader.take(reader.number("I"))))
        kind, number = text.number("B"), number + 1
        if kind == 2:
            assert not text.rest and not reader.rest, "something after the end"
            return store, rows
        assert kind == 1
        while text.rest:
            name = text.take(text.number("H"))
            rows[name] = text.take(text.number("I"))


def read(backup: bytes, kek: bytes) -> Store:
    """Opens everything in a backup, and compares it with its manifest."""
    store_id, rows = rows_of(backup, kek)
    keys = Keys(kek, store_id)
    root = Reader(rows.pop(b"m/root"))
    root.expect(b"OBS1", struct.pack(">H", ROOT_GENERATION), store_id)
    root_key, generation = keys.unwrap(root.rest, b"root", NO_INDEX)
    assert generation == ROOT_GENERATION
    store = Store(store_id, root_key, 0)
    sealed = Reader(rows.pop(b"m/manifest"))
    sealed.expect(b"OBM1", struct.pack(">H", 1))
    manifest = Reader(unseal(derived(root_key, b"manifest"), store.manifest_aad(), sealed.rest))
    store.epoch, count = manifest.number("Q"), manifest.number("Q")
    records = {name[2:]: row for name, row in rows.items() if name.startswith(b"o/")}
    assert (len(records), store.row_sum(records)) == (count, manifest.rest)
    assert len(rows) == 2 * count, "a key for each record, and nothing else"
    for index, row in records.items():
        key, generation = keys.unwrap(rows[b"k/" + index], b"organization", index)
        envelope = Reader(row)
        envelope.expect(b"OBR1")
        form = envelope.number("H")
        envelope.expect(struct.pack(">H", 1), hashlib.sha256(kek_id(kek)).digest()[:8])
        assert envelope.number("I") == generation
        record, sealed_labels = Record(b"", envelope.number("Q"), generation), b""
        if form == 2:
            sealed_labels = envelope.take(envelope.number("H"))
            aad = labels_aad(store_id, index, record)
            record.labels = unseal(derived(root_key, b"labels"), aad, sealed_labels)
        assert form == record.format
        record.body = unseal(key, record_aad(store_id, index, record, sealed_labels), envelope.rest)
        name = organization_id(record.body)
        assert store.index(name) == index
        assert not record.labels or organization_id(record.labels) == name
        store.records[name] = record
    return store


def rows_for(store: Store, kek: bytes) -> dict[bytes, bytes]:
    """The rows of a store, made anew: with other keys than the broker's."""
    keys, rows, records = Keys(kek, store.id), {}, {}
    for name, record in store.records.items():
        index, key = store.index(name), os.urandom(32)
        rows[b"k/" + index] = keys.wrap(key, b"organization", index, record.generation)
        head = struct.pack(">HH", record.format, 1) + hashlib.sha256(kek_id(kek)).digest()[:8]
        head += struct.pack(">IQ", record.generation, record.version)
        labels = b""
        if record.labels:
            aad = labels_aad(store.id, index, record)
            labels = seal(derived(store.root_key, b"labels"), aad, record.labels)
            head += prefixed(labels)
        aad = record_aad(store.id, index, record, labels)
        records[index] = b"OBR1" + head + seal(key, aad, record.body)
    rows |= {b"o/" + index: row for index, row in records.items()}
    root = keys.wrap(store.root_key, b"root", NO_INDEX, ROOT_GENERATION)
    rows[b"m/root"] = b"OBS1" + struct.pack(">H", ROOT_GENERATION) + store.id + root
    text = struct.pack(">QQ", store.epoch, len(records)) + store.row_sum(records)
    manifest = seal(derived(store.root_key, b"manifest"), store.manifest_aad(), text)
    rows[b"m/manifest"] = b"OBM1" + struct.pack(">H", 1) + manifest
    return rows


def make(store: Store, kek: bytes) -> bytes:
    """A backup of a store, made anew: with other keys than the broker's."""
    keys, rows, key = Keys(kek, store.id), rows_for(store, kek), os.urandom(32)
    backup = b"OBX1" + struct.pack(">H", 1) + store.id
    backup += prefixed(keys.wrap(key, b"backup", NO_INDEX, 1))
    body = b"\x01" + b"".join(
        prefixed(name) + struct.pack(">I", len(row)) + row for name, row in rows.items()
    )
    for number, text in enumerate([body, b"\x02"]):
        sealed = seal(key, frame_aad(store.id, number), text)
        backup += struct.pack(">I", len(sealed)) + sealed
    return backup
