"""The contract as files: what buf says of it, and whether it explains itself."""

import re
import subprocess
from pathlib import Path

import pytest
from kodo.broker.v1 import error_reason_pb2

import stubs

BUF = Path(__file__).parent / "node_modules" / ".bin" / "buf"
REASONS = [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()[1:]]

CODES = (
    "INVALID_ARGUMENT UNAUTHENTICATED PERMISSION_DENIED NOT_FOUND ALREADY_EXISTS "
    "FAILED_PRECONDITION ABORTED RESOURCE_EXHAUSTED UNAVAILABLE DATA_LOSS INTERNAL"
).split()


def test_buf_lint():
    lint = subprocess.run([BUF, "lint", stubs.PROTO], capture_output=True, text=True, timeout=60)
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("reason", REASONS)
def test_reason_names_its_code_and_says_what_it_means(reason):
    source = (stubs.PROTO / "kodo/broker/v1/error_reason.proto").read_text()
    comment = re.search(rf"((?:  //.*\n)+)  ERROR_REASON_{reason} = ", source)
    assert comment, f"{reason} has no comment"
    words = " ".join(line.strip(" /") for line in comment[1].splitlines())
    code, _, meaning = words.partition(". ")
    assert code.removesuffix(" with RetryInfo") in CODES
    assert meaning
