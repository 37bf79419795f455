"""The C++ client is built and performs the conformance script; its example runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conformance.serving import check_conformance, conformance_runtime, serving

SOURCE = Path(__file__).parent.parent / "clients" / "cpp"
NEEDED = (Path("/usr/include/zmq.hpp"), Path("/usr/include/msgpack.hpp"))
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client's programs."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    missing += [str(file) for file in NEEDED if not file.exists()]
    if missing:
        pytest.skip(
            f"no {', '.join(missing)}: apt-get install cmake g++ libzmq3-dev cppzmq-dev "
            "libmsgpack-cxx-dev"
        )
    folder = tmp_path_factory.mktemp("cpp")
    for command in (["cmake", "-S", SOURCE, "-B", folder], ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_cpp_client_conforms(build: Path, tmp_path: Path) -> None:
    with conformance_runtime() as runtime:
        check_conformance([str(build / "runner")], runtime, tmp_path)
        with serving(runtime) as endpoint:
            example = subprocess.run(
                [build / "example", endpoint], capture_output=True, text=True, timeout=PATIENCE_S
            )
    assert example.returncode == 0
    assert example.stderr == ""
    assert example.stdout.strip()
