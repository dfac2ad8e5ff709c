"""Python code for the contract, generated from `proto/` by the protobuf project's own compiler."""

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"
# What a contract of others is spoken by.
OTHERS = Path(__file__).parent


def generate(directory: str) -> None:
    """Writes messages and gRPC stubs into a directory, to be put on `sys.path`."""
    sources = [*sorted(PROTO.rglob("*.proto")), *sorted(OTHERS.glob("*.proto"))]
    sources = [str(source) for source in sources]
    well_known = files("grpc_tools") / "_proto"
    outputs = [f"--python_out={directory}", f"--grpc_python_out={directory}"]
    code = protoc.main(["protoc", f"-I{PROTO}", f"-I{OTHERS}", f"-I{well_known}", *outputs, *sources])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")
