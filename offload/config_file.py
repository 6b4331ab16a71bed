"""Settings from a TOML or a YAML file, as the file has them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    import yaml


def read_config_file(path: Path) -> Mapping[str, object]:
    """The top-level mapping of a ``.toml``, ``.yaml`` or ``.yml`` file; an empty file is an empty mapping.

    Raises InvalidOptionError, which names the file and, where the syntax is at fault, the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidOptionError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise InvalidOptionError(f"{path}: {error.strerror or error}; name a TOML or YAML file") from None
    match path.suffix.lower():
        case ".toml":
            settings = _parse_toml(path, text)
        case ".yaml" | ".yml":
            settings = _parse_yaml(path, text)
        case suffix:
            raise InvalidOptionError(f"{path}: cannot tell the format from '{suffix}'; name a .toml or .yaml file")
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InvalidOptionError(f"{path}: holds no settings; write one 'key: value' a line")
    return settings


def _parse_toml(path: Path, text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidOptionError(f"{path}: not valid TOML: {error}") from None


def _parse_yaml(path: Path, text: str) -> object:
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_repeats(path, root)
        settings: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidOptionError(f"{path}: not valid YAML: {error.problem} in line {line}") from None
    except yaml.YAMLError:
        raise InvalidOptionError(f"{path}: not valid YAML: it holds a character that YAML does not allow") from None
    return {} if settings is None else settings


def _refuse_repeats(path: Path, root: "yaml.Node | None") -> None:
    """YAML has each key once; its reader would take the last of them and say nothing."""
    import yaml

    seen: set[int] = set()  # what an alias names is there many times
    rest = [root]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            rest += node.value
        if isinstance(node, yaml.MappingNode):
            rest += [value for _, value in node.value]
            keys: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise InvalidOptionError(f"{path}: '{key.value}' is there again in line {line}; keep one of them")
                keys.add(key.value)
