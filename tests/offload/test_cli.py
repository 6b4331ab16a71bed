"""The command line as a real process: what it prints where, its exit status, and how little it loads."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN_KEYS = {
    *("token_ids", "text", "prefill_s", "decode_tokens_per_s", "tiers", "links"),
    *("hit_ratio", "stall_s", "roofline_s", "efficiency", "peak_rss_bytes"),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("OFFLOAD_")}


def offload(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """One run of the command, away from any terminal."""
    return subprocess.run(
        [sys.executable, "-m", "offload.cli", *arguments],
        cwd=cwd,
        env=ENVIRONMENT | {"XDG_CACHE_HOME": str(cwd / ".cache")} | environ,
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
    (["run", "m", "--prompt-ids", "1,x"], "--prompt-ids '1,x'"),
    (["run", "m", "--prompt-ids", ""], "--prompt-ids ''"),
    (["run", "m", "--prompt-ids", "1", "--prompt", "a"], "--prompt-ids: a text is given too"),
    (["run", "m", "--prompt", ""], "--prompt: is empty"),
    (["run", "m", "--prompt", "x", "--prompt-file", "y"], "--prompt and --prompt-file"),
    (["run", "m", "--prompt-file", "missing.txt"], "missing.txt"),
    (["run", "m", "--prompt-file", "."], "Is a directory"),
    (["run", "m", "--prompt-file", "binary"], "binary: not a text file in UTF-8"),
    (["run", "missing", "--prompt", "x"], "missing: no such file or directory"),
    (["run", "owner/name-7B", "--prompt", "x"], "'hf download owner/name-7B --local-dir DIR' does that"),
    (["run", "typo.toml", "--prompt", "x"], "typo.toml: is a file, and no .gguf one; give a model directory"),
    (["run", "typo.toml/x", "--prompt", "x"], "typo.toml/x: cannot be read (Not a directory)"),
    (["run", "m", "--prompt", "x", "--trace-out", "typo.toml/t.json"], "--trace-out: typo.toml does not exist"),
    (["run", "m", "--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens: '0' is not a count; write"),
    (["run", "m", "--prompt", "x", "--max-new-tokens", "many"], "--max-new-tokens: 'many'"),
    (["run", "m", "--prompt", "x", "--prompt-tokens", "-1"], "--prompt-tokens: '-1'"),
    (["run", "m", "--prompt", "x", "--policy", "best"], "--policy: 'best' is no eviction policy; write one of"),
    (["run", "m", "--prompt", "x", "--predictor", "luck"], "--predictor: 'luck' is no predictor; write one of none,"),
    (["bench", "experts", "--cached", "2"], "--cached: '2' is no share; write for example 50%"),
    (["bench", "experts", "--memory-limit", "1G"], "'1G' is not a size; write 1GiB"),
    (["run", "m", "--prompt", "x", "--device", "gpu"], "--device: 'gpu' is not a device; write cpu, cuda or cuda:0"),
    (["run", "m", "--prompt", "x", "--device-memory", "8G"], "--device-memory: '8G' is not a size; write 8GiB"),
    (["run", "m", "--prompt", "x", "--device-memory", "-1GiB"], "--device-memory: '-1GiB' is not a size; write 1GiB"),
    (["run", "m", "--prompt", "x", "--nvme-dir", "binary"], "--nvme-dir: binary is a file"),
    (["run", "m", "--prompt", "x", "--csd", "one"], "--csd: 'one' is not a count"),
    (["run", "m", "--prompt", "x", "--attention", "in-storage"], "'in-storage' needs a computational drive"),
    (["run", "m", "--prompt", "x", "--dtype", "int3"], "--dtype: 'int3'"),
    (["run", "m", "--prompt", "x", "--config", "missing.toml"], "missing.toml: No such file"),
    (["run", "m", "--prompt", "x", "--config", "typo.toml"], "typo.toml: no setting 'device_memroy'"),
    (["run", "m", "--prompt", "x", "--device-memry", "8GiB"], "--device-memry"),
    (["plan", "m", "--batch", "0"], "--batch: '0' is not a count; write a whole number from 1 up"),
    (["plan", "missing"], "missing: no such file or directory"),
    (["pack", "missing", "out"], "missing: no such file or directory"),
    (["pack", "m"], "OUT"),
    (["convert", "m", "out"], "write --to-moe for a mixture of experts"),
    (["convert", "missing", "out", "--to-moe"], "missing: no such file or directory"),
    (["convert", "m", "out", "--to-moe", "--top-k", "0"], "--top-k: '0' is not a count; write"),
    (["doctor", "--nvme-dir", "binary"], "--nvme-dir: binary is a file"),
    (["bench", "fish"], "'fish'"),
    (["bench", "kv", "--model", "missing"], "missing: no such file or directory"),
    (["trace", "record", "m", "--prompt-file", "typo.toml"], "--out"),
    (["trace", "record", "m", "-o", "t.npz"], "--prompt-file: missing; name a file with the text"),
    (["trace", "record", "m", "--prompt-file", "typo.toml", "-o", "."], "--out: . is a directory; name a file"),
    (["trace", "record", "m", "--prompt-file", "typo.toml", "-o", "a/t.npz"], "--out: a does not exist"),
    (["trace", "record", "m", "--prompt-file", "typo.toml", "-o", "t", "--requests", "0"], "--requests: '0'"),
    (["trace", "info", "missing.npz"], "missing.npz: no such trace; 'offload trace record' writes one"),
    (["trace", "info", "missing.npz"], "samples of requests are mooncake_conversation"),
    (["trace", "info", "binary"], "binary:1: is neither text in UTF-8 nor a trace of experts; name a trace"),
    (["trace", "info", "binary", "--slots", "half"], "--slots: 'half'"),
    (["train-predictor", "-o", "p.npz"], "TRACE"),
    (["train-predictor", "missing.npz", "-o", "p.npz"], "missing.npz: no such trace"),
    (["train-predictor", "binary", "-o", "p.npz", "--kind", "oracle"], "--kind: 'oracle' is not a kind of predictor"),
    (["train-predictor", "binary", "-o", "p.npz", "--test", "gone.npz"], "gone.npz: no such trace"),
    (["train-predictor", "binary", "-o", "a/p.npz"], "--out: a does not exist"),
    (["train-predictor", "binary", "-o", "p.npz", "--steps", "0"], "--steps: '0' is not a count"),
    (["train-predictor", "binary", "-o", "p.npz", "--model", "missing"], "missing: no such file or directory"),
    (["train-predictor", "binary", "-o", "p.npz"], "binary: is no expert trace, or a damaged one"),
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


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["bench"], ["bench", "--help"], ["trace"]])
def test_help(folder: Path, arguments: list[str]) -> None:
    ran = offload(*arguments, cwd=folder)
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: offload")
    assert ran.stderr == ""


HEAVY = ("cupy", "gguf", "kvikio", "numpy", "rich", "scipy", "torch", "transformers", "yaml", "zarr")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", "missing"], ["trace", "info", "x"]])
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


def test_run_prints_one_json_object_and_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ["run", str(tiny_llama), "--prompt", "Storage is memory", "--max-new-tokens", "6", "--json"]
    ran = offload(*arguments, "--device-memory", "64MiB", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    answer = json.loads(ran.stdout)
    assert ran.stdout.count("\n") == 1
    assert answer.keys() >= RUN_KEYS
    assert len(answer["token_ids"]) == 6
    assert all({"capacity_bytes", "peak_bytes"} <= tier.keys() for tier in answer["tiers"].values())
    assert all({"bytes", "busy_s"} <= link.keys() for link in answer["links"].values())


def test_run_for_people_prints_the_answer_then_the_figures(tiny_llama: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Storage is memory. " * 40, encoding="utf-8")
    arguments = ["run", str(tiny_llama), "--prompt-file", str(prompt), "--prompt-tokens", "9", "--max-new-tokens", "6"]
    shown = offload(*arguments, cwd=tmp_path)
    answer = json.loads(offload(*arguments, "--json", cwd=tmp_path).stdout)
    assert shown.returncode == 0, shown.stderr
    assert answer["prompt_tokens"] == 9
    assert shown.stdout.startswith(answer["text"])
    for word in ("tokens/s", "device", "roofline", "efficiency", "peak memory"):
        assert word in shown.stdout
    assert shown.stderr.startswith("plan: ")


def test_plan_says_the_same_in_both_forms(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ["plan", str(tiny_llama), "--prompt-tokens", "100", "--max-new-tokens", "10"]
    answer = json.loads(offload(*arguments, "--json", cwd=tmp_path).stdout)
    assert {"placement", "predicted_tokens_per_s", "bottleneck"} <= answer.keys()
    shown = offload(*arguments, cwd=tmp_path).stdout
    assert f"{answer['predicted_tokens_per_s']:.2f} tokens/s" in shown
    assert f"bound by {answer['bottleneck']}" in shown


def test_convert(tiny_llama: Path, tmp_path: Path) -> None:
    small = ("--experts", "8", "--top-k", "2", "--calibration-tokens", "1024", "--held-out-tokens", "1024")
    ran = offload(
        "convert", str(tiny_llama), "moe", "--to-moe", *small, "--distill-tokens", "0", "--json", cwd=tmp_path
    )
    answer = json.loads(ran.stdout)
    wanted = {"perplexity_dense", "perplexity", "active_share", "overlap_next_token", "load_skew", "seconds", "seed"}
    assert wanted <= answer.keys()
    assert answer["perplexity"] > 1
    assert (tmp_path / "moe" / "config.json").exists()


def test_packing_again_says_that_nothing_was_to_be_done(tiny_llama: Path, tmp_path: Path) -> None:
    first, second = (offload("pack", str(tiny_llama), "packed", cwd=tmp_path).stdout for _ in range(2))
    assert "there already" not in first
    assert second.startswith("there already, of the same files: ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tiny_llama: Path, tmp_path: Path, closed: str) -> None:
    """Nothing that is opened takes the number of a closed stream, and nobody is told of it."""
    words = [
        sys.executable,
        "-m",
        "offload.cli",
        "run",
        str(tiny_llama),
        "--prompt-ids",
        "1,2",
        "--max-new-tokens",
        "2",
    ]
    ran = _in_a_shell(words, closed, tmp_path)
    assert ran.returncode == 0
    assert "error" not in ran.stderr
    assert ("efficiency" in ran.stdout) == (" >&-" not in f" {closed}")


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "offload.cli", "simulate", "mooncake_lru", "--json"]
    ran = _in_a_shell(words, "> /dev/full", tmp_path)
    assert ran.returncode == 1
    assert ran.stderr == "offload: the answer cannot be written: No space left on device; free some space\n"


def test_a_prompt_in_a_locale_without_its_letters(tiny_llama: Path, tmp_path: Path) -> None:
    """Its bytes are taken for UTF-8, and refused in one line where they are not."""
    plain = ("env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", sys.executable, "-m", "offload.cli", "run")
    words = [*plain, str(tiny_llama), "--max-new-tokens", "2", "--prompt"]
    ran = _in_a_shell([*words, "o\u00f9"], "", tmp_path)
    assert "surrogates" not in ran.stderr
    assert "internal error" not in ran.stderr
    ran = _in_a_shell([*words, "caf\udce9"], "", tmp_path)
    assert ran.returncode == 2
    assert complaint(ran).startswith("offload: --prompt: not text in UTF-8; write it to a file")


def test_progress_and_answer_in_one_file(tmp_path: Path) -> None:
    """A line about the run does not begin in the middle of one of the answer."""
    code = (
        "from offload.commands import view; v = view.PlainView(); v.on_text('once'); "
        "v._say('decode'); v.on_text(' more'); v.__exit__(None, None, None)"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, stderr=file, check=True)
    assert log.read_text() == "once\ndecode\n more\n"


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = offload("doctor", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert ran.returncode == 2
    assert complaint(ran).endswith("set XDG_CACHE_HOME to a directory that can")


def _in_a_shell(words: list[str], redirection: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *words]
    environment = ENVIRONMENT | {"XDG_CACHE_HOME": str(cwd / ".cache")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_version(tmp_path: Path) -> None:
    assert offload("--version", cwd=tmp_path).stdout.startswith("offload-runtime ")


def test_pack_answers_with_what_it_wrote(tiny_llama: Path, tmp_path: Path) -> None:
    answer = json.loads(offload("pack", str(tiny_llama), "packed", "--json", cwd=tmp_path).stdout)
    assert answer["blocks"] > 0
    assert answer["bytes"] >= (tiny_llama / "model.safetensors").stat().st_size // 2
    assert answer["seconds"] >= 0
    assert (tmp_path / "packed").is_dir()


def test_plan_for_a_board_that_is_not_here(tiny_llama: Path, tmp_path: Path) -> None:
    """One memory: nothing beside the device; a board that nobody knows is one line."""
    board = ["plan", str(tiny_llama), "--profile", "jetson_orin_nano", "--nvme-dir", "drive", "--json"]
    answer = json.loads(offload(*board, "--device-memory", "64MiB", cwd=tmp_path).stdout)
    assert answer["profile"] == "jetson_orin_nano"
    assert answer["placement"]["host"]["bytes"] == 0
    assert answer["placement"]["device"]["bytes"] <= 64 * 2**20
    ran = offload("plan", str(tiny_llama), "--profile", "jetson", cwd=tmp_path)
    assert ran.returncode == 2
    assert complaint(ran).startswith("offload: --profile: 'jetson' is none of the profiles that ship")


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_cleans_up(tiny_llama: Path, tmp_path: Path, number: int, status: int, word: str) -> None:
    drive = tmp_path / "drive"
    budgets = ["--device-memory", "64MiB", "--nvme-dir", str(drive)]
    arguments = ["run", str(tiny_llama), "--prompt", "x", "--max-new-tokens", "8000", *budgets]
    command = [sys.executable, "-m", "offload.cli", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        ran.stdout.read(1)
        ran.send_signal(number)
        _, said = ran.communicate(timeout=120)
    assert ran.returncode == status
    assert said.decode().splitlines()[-1] == f"offload: {word}"
    assert b"Traceback" not in said
    assert not drive.exists() or list(drive.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_doctor_that_is_stopped_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Neither the drive's file, with which it begins, nor the models that it times at its end."""
    drive = tmp_path / "drive"
    command = [sys.executable, "-m", "offload.cli", "doctor", "--nvme-dir", str(drive), "--json"]
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as ran:
        while not drive.exists():
            assert ran.poll() is None
        ran.send_signal(number)
        _, said = ran.communicate(timeout=120)
    assert ran.returncode == 128 + number
    assert b"Traceback" not in said
    assert not drive.exists()


def test_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offload", "--help"]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage: offload ")
