"""Python code for the contract, generated from `proto/` by the protobuf project's own compiler."""

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"


def generate(directory: str) -> None:
    """Writes messages and gRPC stubs into a directory, to be put on `sys.path`."""
    sources = [str(source) for source in sorted(PROTO.rglob("*.proto"))]
    well_known = files("grpc_tools") / "_proto"
    outputs = [f"--python_out={directory}", f"--grpc_python_out={directory}"]
    code = protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *outputs, *sources])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")
