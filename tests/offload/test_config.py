"""Where settings come from, which of them wins, and what is said about a wrong one."""

from pathlib import Path

import pytest

from offload.config import RunConfig, load_config
from tiers.errors import InvalidOptionError


def refusal(
    explicit: dict[str, object] | None = None, file: Path | None = None, environ: dict[str, str] | None = None
) -> str:
    """The message with which these settings are refused."""
    with pytest.raises(InvalidOptionError) as caught:
        load_config(explicit or {}, file=file, environ=environ or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    assert load_config({}, environ={}) == RunConfig()


def test_explicit_wins_over_file_wins_over_environment_wins_over_default(tmp_path: Path) -> None:
    environ = {"OFFLOAD_DEVICE_MEMORY": "1MiB", "OFFLOAD_HOST_MEMORY": "1MiB", "OFFLOAD_NVME_MEMORY": "1MiB"}
    file = write(tmp_path / "run.toml", 'device_memory = "2MiB"\nhost_memory = "2MiB"\n')
    config = load_config({"device_memory": "3MiB", "nvme_dir": None}, file=file, environ=environ)
    assert config == RunConfig(device_memory=3 * 2**20, host_memory=2 * 2**20, nvme_memory=2**20)


@pytest.mark.parametrize("name", ["run.yaml", "run.yml"])
def test_yaml(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, f"device: cuda:1\nhost_memory: 4096\nnvme_dir: {tmp_path}\nbatch: 3\n")
    config = load_config({}, file=file, environ={})
    assert config == RunConfig(device="cuda:1", host_memory=4096, nvme_dir=tmp_path, batch=3)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    for name in ("run.yaml", "run.toml"):
        assert load_config({}, file=write(tmp_path / name, ""), environ={}) == RunConfig()


def test_keywords_may_be_python_values(tmp_path: Path) -> None:
    config = load_config({"device_memory": 2**30, "nvme_dir": tmp_path, "batch": 2}, environ={})
    assert config == RunConfig(device_memory=2**30, nvme_dir=tmp_path, batch=2)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("device", "gpu", "device: 'gpu' is not a device; write cpu, cuda or cuda:0"),
        ("device", "cuda:", "is not a device"),
        ("device", "cuda:x", "is not a device"),
        ("device_memory", "8GX", "device_memory: '8GX' is not a size; write it like 8MiB or 8GiB"),
        ("device_memory", -1, "device_memory: -1 is not a size"),
        ("device_memory", 1.5, "device_memory: 1.5 is not a size"),
        ("device_memory", True, "device_memory: True is not a size"),
        ("host_memory", "", "host_memory: '' is not a size"),
        ("nvme_dir", "", "nvme_dir: '' is not a directory"),
        ("nvme_dir", 7, "nvme_dir: 7 is not a directory"),
        ("attention", "sparse", "attention: 'sparse' is no way to attend; write one of auto, in-storage,"),
        ("attention", "in-storage", "attention 'in-storage' needs a computational drive, and csd is 0; set it to 1"),
        ("compression", "2", "compression: '2' is no share; write for example 1/8"),
        ("compression", "1/0", "compression: '1/0' is no share"),
        ("compression", True, "compression: True is no share"),
        ("compression", "1/8", "compression 0.125 needs a computational drive, and csd is 0; set it to 1 or more"),
        ("write_back", 16, "write_back 16 needs a computational drive, and csd is 0; set it to 1 or more"),
        ("write_back", "16KiB", "write_back: '16KiB' is not a count"),
        ("x_cache", "1/2", "x_cache 0.5 needs a computational drive"),
        ("x_cache", False, "x_cache: False is no share"),
        ("x_cache", "-1/2", "x_cache: '-1/2' is no share"),
        ("x_cache", 2, "x_cache: 2 is no share; write for example 1/8 or 0.125"),
        ("dense_layers", "0,1", "dense_layers (0, 1) needs a computational drive"),
        ("dense_layers", "first", "dense_layers: 'first' names no layers; write their numbers from 0, such as 0,1"),
        ("csd", "one", "csd: 'one' is not a count"),
        ("csd", -1, "csd: '-1' is not a count"),
        ("dtype", "int3", "dtype: 'int3' is not a data type"),
        ("batch", 0, "batch: '0' is not a count; write a whole number from 1 up"),
        ("batch", "1e3", "batch: '1e3' is not a count"),
        ("device_memroy", "1MiB", "no setting 'device_memroy'; did you mean 'device_memory'?"),
        ("colour", "red", "no setting 'colour'; there are device, device_memory"),
    ],
)
def test_wrong_keywords(key: str, value: object, said: str) -> None:
    assert said in refusal({key: value})


def test_inputs_are_stored_in_groups() -> None:
    assert load_config({"csd": 1, "write_back": 16, "x_cache": "1/2"}, environ={}).x_cache == 0.5
    for nothing in (0, 0.0, "0", "0.0", "0.00", "0/1", ".0"):
        assert load_config({"x_cache": nothing}, environ={}) == RunConfig()
    said = refusal({"csd": 1, "x_cache": "1/2"})
    assert said == "x_cache 0.5: inputs are stored in groups of tokens, and write_back is 0; set it, say to 16"


def test_layers_by_number() -> None:
    drives = {"csd": 1, "attention": "in-storage-sparse"}
    for value in ("1, 0", [1, 0, 1], (0, 1)):
        assert load_config({**drives, "dense_layers": value}, environ={}).dense_layers == (0, 1)
    assert load_config({**drives, "dense_layers": 3}, environ={}).dense_layers == (3,)
    said = refusal({"csd": 1, "dense_layers": "0"})
    assert said.startswith("dense_layers (0,): attention 'auto' reads all layers in full; leave them out")


@pytest.mark.parametrize("attention", ["auto", "in-storage"])
def test_what_reads_everything_takes_no_share(attention: str) -> None:
    drives = {"csd": 1, "attention": attention}
    said = refusal({**drives, "compression": "1/8"})
    assert said.startswith(f"compression 0.125: attention '{attention}' reads everything; leave it out, or choose in-")
    assert load_config({**drives, "compression": "1/4"}, environ={}).compression == 0.25


@pytest.mark.parametrize("given", [True, "true", "on", "ON", "1"])
def test_a_switch(given: object) -> None:
    assert load_config({"device": "cuda", "cuda_graphs": given}, environ={}).cuda_graphs is True
    assert load_config({"cuda_graphs": False}, environ={"OFFLOAD_CUDA_GRAPHS": "on"}).cuda_graphs is False
    assert load_config({}, environ={"OFFLOAD_CUDA_GRAPHS": "off"}).cuda_graphs is False


def test_graphs_need_a_gpu() -> None:
    said = "cuda_graphs: device 'cpu' has no CUDA graphs; leave it out, or set device to cuda"
    assert refusal({"cuda_graphs": True}) == said
    assert refusal(environ={"OFFLOAD_CUDA_GRAPHS": "yes"}).startswith(
        "OFFLOAD_CUDA_GRAPHS: 'yes' is neither on nor off; write true or false"
    )


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "disk", "")
    assert refusal({"nvme_dir": str(file)}) == f"nvme_dir: {file} is a file; name a directory"


def test_options_are_called_options() -> None:
    with pytest.raises(InvalidOptionError, match=r"^--device-memory: '8G' is not a size; write 8GiB$"):
        load_config({"device_memory": "8G"}, environ={}, as_options=True)


def test_the_environment_is_named() -> None:
    assert refusal(environ={"OFFLOAD_HOST_MEMORY": "lots"}).startswith("OFFLOAD_HOST_MEMORY: 'lots' is not a size")


def test_a_slip_in_the_environment_is_refused_and_other_programs_names_are_not() -> None:
    said = refusal(environ={"OFFLOAD_DEVICE_MEMROY": "1MiB"})
    assert said == "environment: no setting OFFLOAD_DEVICE_MEMROY; did you mean OFFLOAD_DEVICE_MEMORY?"
    assert load_config({}, environ={"OFFLOAD_SENTRY_URL": "x", "OFFLOAD_CSD": "", "PATH": "/bin"}) == RunConfig()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.toml", 'device_memroy = "1MiB"', "run.toml: no setting 'device_memroy'; did you mean 'device_memory'?"),
        ("run.toml", "device = 3", "run.toml: device: 3 is not a device"),
        ("run.toml", "device = ", "run.toml: not valid TOML"),
        ("run.yaml", "device: [", "run.yaml: not valid YAML"),
        ("run.yaml", "device: \x01", "run.yaml: not valid YAML"),
        ("run.yaml", "- device", "run.yaml: holds no settings"),
        ("run.yaml", "device: cpu\nbatch: 1\ndevice: cuda", "run.yaml: 'device' is there again in line 3; keep one"),
        ("run.yaml", "a: &a [x]\nb: {c: [*a, {d: 1, d: 2}]}", "run.yaml: 'd' is there again in line 2"),
        ("run.yaml", "1: cpu", "run.yaml: holds no settings"),
        ("run.yaml", "nvme_dir: null", "run.yaml: nvme_dir: None is not a directory"),
        ("run.json", "{}", "run.json: cannot tell the format from '.json'"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert said in refusal(file=write(tmp_path / name, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "missing.toml: No such file" in refusal(file=tmp_path / "missing.toml")
    assert "Is a directory" in refusal(file=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"device = '\xe9'")
    assert "latin.toml: not a text file in UTF-8" in refusal(file=tmp_path / "latin.toml")


def test_a_config_made_by_hand_is_checked_too() -> None:
    with pytest.raises(InvalidOptionError, match=r"^batch: '0' is not a count"):
        RunConfig(batch=0)
