"""Fills the tree of settings: defaults, then a TOML file, then `HEADRACE_SECTION__KEY`, then flags.

Each value keeps its origin, so that `headrace config show` can say where it came from. A key that nothing knows is an
error that names the nearest one that exists. Secrets come from the environment or from files of their own, never from
the settings file or a flag, and no error quotes them. Pure: the environment and the file's text are passed in.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from worker import security
from worker.errors import ConfigurationError
from worker.settings import Secret, Section, Settings

ENV_PREFIX = "HEADRACE_"
# Variables with our prefix that are not settings.
ENV_OTHER = frozenset(
    {"HEADRACE_DATA_DIR", "HEADRACE_TEST_BOOTSTRAP", "HEADRACE_TEST_GPU_TRITON", "HEADRACE_TEST_GPU_MODEL"}
)
# `//user:password@host` or `user:password@host:port`, in keys that hold addresses.
_USER_INFO = re.compile(r"(?:^|[/,\s])[^/@,\s]+@")
_ADDRESS = re.compile(r"(?:url|urls|uri|servers|endpoint|endpoints)$")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings in force and, for each dotted key, where its value came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Configuration:
    """Merge the sources in order of precedence; `flags` maps dotted keys to values.

    Raises ConfigurationError for an unreadable file, an unknown key, a value of the wrong type or range, a secret where
    it may not stand, or TLS and SASL settings that do not fit each other.
    """
    known = dict(_leaves(Settings))
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    sources: list[tuple[str, dict[str, Any]]] = []
    if path is not None:
        sources.append((str(path), _flatten(_read_toml(path))))
    sources.extend(_from_environment(environment or {}, known))
    sources.append(("flag", dict(flags or {})))
    for origin, pairs in sources:
        for key, value in pairs.items():
            if key not in known:
                raise ConfigurationError(_unknown(key, origin, known))
            if known[key] is Secret and not origin.startswith(ENV_PREFIX):
                raise ConfigurationError(_exposed_secret(key, origin))
            if _ADDRESS.search(key) and _USER_INFO.search(str(value)):
                raise ConfigurationError(
                    f"{key} ({origin}) holds a user or password; write addresses without them (see docs/security.md)"
                )
            values[key] = _convert(key, value, known[key], origin)
            origins[key] = origin
    settings = _build(values)
    security.check(settings)
    return Configuration(settings, origins)


def flat(settings: Settings) -> dict[str, Any]:
    """Dotted key -> value, in the order of the tree; secrets as `***`."""
    tree = msgspec.to_builtins(settings, enc_hook=str)
    return {key: _dig(tree, key) for key, _ in _leaves(Settings)}


def changed(settings: Settings) -> dict[str, Any]:
    """Dotted key -> value of what is not the default, secrets left out: they may stand in no file."""
    defaults = flat(Settings())
    secrets = {key for key, type_ in _leaves(Settings) if type_ is Secret}
    return {key: value for key, value in flat(settings).items() if value != defaults[key] and key not in secrets}


def to_toml(settings: Settings) -> str:
    """A settings file of what is not the default; JSON's scalars and arrays are written the same in TOML."""
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in changed(settings).items())


def json_schema() -> dict[str, Any]:
    """JSON Schema of the settings file."""
    return msgspec.json.schema(Settings, schema_hook=_secret_schema)


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for info in msgspec.structs.fields(section):
        if isinstance(info.type, type) and issubclass(info.type, Section):
            yield from _leaves(info.type, f"{prefix}{info.name}.")
        else:
            yield f"{prefix}{info.name}", info.type


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"can't read settings file {path}: {error.strerror}; name an existing TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs |= _flatten(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, text in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX) or name in ENV_OTHER:
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if key not in known and "." not in key:
            raise ConfigurationError(
                f"environment variable {name} is no setting; settings are written {ENV_PREFIX}SECTION__KEY, "
                f"for example HEADRACE_KAFKA__BOOTSTRAP_SERVERS"
            )
        value: Any = [part.strip() for part in text.split(",")] if "tuple" in str(known.get(key)) else text
        yield name, {key: value}


def _convert(key: str, value: Any, type_: Any, origin: str) -> Any:
    try:
        # Text from the environment or a flag may stand for a number; a TOML file says its types itself.
        return msgspec.convert(value, type_, strict=not isinstance(value, str), dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{key} = {value!r} ({origin}): {error}") from error


def _unknown(key: str, origin: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else "; `headrace config schema` lists all keys"
    return f"unknown setting {key} ({origin}){hint}"


def _build(values: Mapping[str, Any]) -> Settings:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return msgspec.convert(tree, Settings, dec_hook=_secret)


def _secret(type_: type, value: Any) -> Any:
    """msgspec asks this for the one type it does not know, with what came from the environment or was converted before."""
    if isinstance(value, type_):
        return value
    return type_(value)


def _secret_schema(_: type) -> dict[str, Any]:
    return {"type": "string", "maxLength": 0, "description": "Only from the environment: it may not stand in a file."}


def _exposed_secret(key: str, origin: str) -> str:
    variable = ENV_PREFIX + key.upper().replace(".", "__")
    where = "on the command line, where every process list shows it" if origin == "flag" else f"in {origin}"
    return f"{key} may not stand {where}: name a file of its own in {key}_file, or set {variable}"


def _dig(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
