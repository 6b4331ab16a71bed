"""The command line as a real process: what it prints where, its exit status, and how little it loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("OFFLOAD_")}


def offload(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """One run of the command, away from any terminal."""
    return subprocess.run(
        [sys.executable, "-m", "offload.cli", *arguments],
        cwd=cwd,
        env=ENVIRONMENT | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def complaint(ran: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a run that printed nothing else."""
    assert ran.stdout == ""
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("offload: ")
    return lines[0]


BAD_INPUTS = [
    (["fly"], "'fly'"),
    (["run"], "MODEL"),
    (["run", "m"], "--prompt"),
    (["run", "m", "--prompt", ""], "--prompt: is empty"),
    (["run", "m", "--prompt", "x", "--prompt-file", "y"], "--prompt and --prompt-file"),
    (["run", "m", "--prompt-file", "missing.txt"], "missing.txt"),
    (["run", "m", "--prompt-file", "."], "Is a directory"),
    (["run", "m", "--prompt-file", "binary"], "binary: not a text file in UTF-8"),
    (["run", "missing", "--prompt", "x"], "missing: no such file or directory"),
    (["run", "m", "--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
    (["run", "m", "--prompt", "x", "--max-new-tokens", "many"], "'many'"),
    (["run", "m", "--prompt", "x", "--prompt-tokens", "-1"], "--prompt-tokens"),
    (["run", "m", "--prompt", "x", "--device", "gpu"], "--device: 'gpu' is not a device; write cpu, cuda or cuda:0"),
    (["run", "m", "--prompt", "x", "--device-memory", "8G"], "--device-memory: '8G' is not a size; write 8GiB"),
    (["run", "m", "--prompt", "x", "--device-memory", "-1GiB"], "--device-memory: '-1GiB' is not a size; write 1GiB"),
    (["run", "m", "--prompt", "x", "--nvme-dir", "binary"], "--nvme-dir: binary is a file"),
    (["run", "m", "--prompt", "x", "--csd", "1"], "--csd: 1 computational drives"),
    (["run", "m", "--prompt", "x", "--dtype", "int3"], "--dtype: 'int3'"),
    (["run", "m", "--prompt", "x", "--config", "missing.toml"], "missing.toml: No such file"),
    (["run", "m", "--prompt", "x", "--config", "typo.toml"], "typo.toml: no setting 'device_memroy'"),
    (["run", "m", "--prompt", "x", "--device-memry", "8GiB"], "--device-memry"),
    (["plan", "m", "--batch", "0"], "--batch: 0 sequences"),
    (["plan", "missing"], "missing: no such file or directory"),
    (["pack", "missing", "out"], "missing: no such file or directory"),
    (["pack", "m"], "OUT"),
    (["doctor", "--nvme-dir", "binary"], "--nvme-dir: binary is a file"),
    (["bench", "fish"], "'fish'"),
    (["bench", "kv", "--model", "missing"], "missing: no such file or directory"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with an empty model, a file that is no text and a configuration with a slip."""
    path = tmp_path_factory.mktemp("cli")
    (path / "m").mkdir()
    (path / "binary").write_bytes(b"\xff\xfe\x00")
    (path / "typo.toml").write_text('device_memroy = "8GiB"\n', encoding="utf-8")
    return path


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUTS, ids=lambda value: " ".join(value)[:60])
def test_bad_input_is_one_line_and_status_2(folder: Path, arguments: list[str], said: str) -> None:
    ran = offload(*arguments, cwd=folder)
    assert ran.returncode == 2
    assert said in complaint(ran)


def test_json_changes_nothing_about_errors(folder: Path) -> None:
    ran = offload("plan", "missing", "--json", cwd=folder)
    assert ran.returncode == 2
    assert "missing" in complaint(ran)


def test_debug_shows_the_traceback_and_keeps_the_status(folder: Path) -> None:
    ran = offload("plan", "missing", "--debug", cwd=folder)
    assert ran.returncode == 2
    assert "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("offload: missing")


def test_the_environment_is_a_source_of_settings(folder: Path) -> None:
    ran = offload("plan", "m", cwd=folder, OFFLOAD_HOST_MEMORY="8G")
    assert ran.returncode == 2
    assert "OFFLOAD_HOST_MEMORY: '8G' is not a size; write 8GiB" in complaint(ran)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["bench"], ["bench", "--help"]])
def test_help(folder: Path, arguments: list[str]) -> None:
    ran = offload(*arguments, cwd=folder)
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: offload")
    assert ran.stderr == ""


HEAVY = ("cupy", "gguf", "kvikio", "numpy", "rich", "scipy", "torch", "transformers", "yaml", "zarr")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", "missing"]])
def test_help_and_refusals_load_nothing_heavy(folder: Path, arguments: list[str]) -> None:
    """They answer at once because they import none of the large libraries."""
    program = (
        "import sys; from offload.cli import main\n"
        f"sys.argv = ['offload', *{arguments!r}]\n"
        f"main(); sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line for line in ran.stderr.splitlines() if not line.startswith("offload: ")] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, offload; print(sorted(set({HEAVY!r}) & set(sys.modules)), offload.__version__)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.startswith("[] 0.")
