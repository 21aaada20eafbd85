"""The demo model: PITH_DEMO, else converted by the command."""

import os
import pathlib
import subprocess
import sys

import files
import pytest

import pith

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_pith(*args: str, stdin: str | None = None) -> str:
    """What the command `pith` prints: PITH_CLI, else built."""
    command = os.environ.get("PITH_CLI")
    argv = [command] if command else ["cargo", "run", "--quiet", "--release", "--"]
    done = subprocess.run(
        [*argv, *args], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def cli():
    return run_pith


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    given = os.environ.get("PITH_DEMO")
    if given:
        return pathlib.Path(given)
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    run_pith("convert", "models/demo", "-o", str(path))
    return path


@pytest.fixture(scope="session")
def model(demo: pathlib.Path) -> pith.Model:
    return pith.Model.load(demo)


@pytest.fixture(scope="session")
def deep(demo: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model so deep that a prompt takes a while."""
    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    path.write_bytes(files.deepened(demo, 40))
    return path


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Models that end in a head, by what it labels: "Sequence" or "Token"."""
    folder = tmp_path_factory.mktemp("heads")
    for kind in ("Sequence", "Token"):
        files.with_head(ROOT / "models/demo", folder / kind, kind, ["good", "bad", "naïve"])
        run_pith("convert", str(folder / kind), "-o", str(folder / f"{kind}.gguf"))
    return {kind: folder / f"{kind}.gguf" for kind in ("Sequence", "Token")}


@pytest.fixture
def python():
    """Runs a script in another interpreter."""

    def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=300
        )

    return run
