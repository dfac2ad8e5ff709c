"""What a failed call tells: the status of gRPC and the details of `google.rpc`."""

from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kodo.broker.v1 import error_reason_pb2


@dataclass(frozen=True)
class Refusal:
    """Two are equal when a program that follows the contract would treat them alike."""

    code: grpc.StatusCode
    reason: str
    retry: bool = False
    text: str = field(default="", compare=False)


def refusal(method, request) -> Refusal:
    """Makes a call that has to fail, and reads why from `grpc-status-details-bin`."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=30)
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"no details: {caught.value}"
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == "broker.kodo"
    assert f"ERROR_REASON_{info.reason}" in error_reason_pb2.ErrorReason.keys()
    return Refusal(
        code=caught.value.code(),
        reason=info.reason,
        retry=_detail(status, error_details_pb2.RetryInfo) is not None,
        text=f"{status}",
    )


def _detail(status, kind):
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
