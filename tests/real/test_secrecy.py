"""What the brokers of this run have left behind. Runs after all other tests."""

import re

import pytest

from canary import encodings, found_in

# Room that the store keeps free: long, and nothing is ever written to it.
RESERVE = "kodo-broker.reserve"
JWT = re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}")


@pytest.fixture(scope="module")
def ended(brokers):
    """All of them, each ended by SIGTERM with exit code 0."""
    for broker in brokers:
        broker.stop()
    assert brokers, "no broker has run"
    return brokers


def test_search_finds_every_encoding():
    value = b"s+/=&% ~0123456789"
    for form in encodings(value):
        assert found_in(b"before" + form + b"after", {value})
    assert not found_in(b"before" + value[:-1] + b"after", {value})


def test_output_holds_no_secret(ended, canaries):
    for broker in ended:
        assert any(log.stat().st_size for log in broker.logs), "nothing was logged"
        for log in broker.logs:
            content = log.read_bytes()
            assert not found_in(content, canaries.secrets)
            assert not JWT.search(content)
            assert b"PRIVATE KEY" not in content


def test_data_directory_holds_neither_secret_nor_name(ended, canaries):
    for broker in ended:
        files = [path for path in broker.data.rglob("*") if path.is_file()]
        assert files, "nothing was stored"
        for path in files:
            content = path.read_bytes()
            if path.name == RESERVE:
                assert not content.strip(b"\0"), path
                continue
            assert not found_in(content, canaries.secrets | canaries.identifiers), path
            assert not JWT.search(content)
            assert not found_in(str(path).encode(), canaries.identifiers)
