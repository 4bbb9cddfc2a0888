"""What is published for readers outside the code agrees with it: JSON Schemas, and what README.md and docs/ say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from worker import config
from worker.frames import Frame, ImageFacts, ModelIdentity, Reason, Row, SourcePartition
from worker.publish.messages import Composer, Message, Target, model_record
from worker.records import SCHEMAS, Timings, json_schema
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/records.md",
    "docs/delivery.md",
    "docs/security.md",
    "docs/development.md",
    "docs/detector.md",
)
# Pages whose `Class.name` are Python's.
CODE_PAGES = ("docs/architecture.md", "docs/delivery.md")
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:worker|kernels|triton_models|benchmarks|tests|docs|deploy)/[\w./*-]+")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
_MEMBER = re.compile(r"([A-Z]\w+)\.([a-z_]\w*)")
_SECTIONS = "|".join(Settings.__struct_fields__)
_SETTING_ROW = re.compile(rf"^\| `((?:{_SECTIONS})\.[a-z_]+)` \| `([^`]*)` \|", re.MULTILINE)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_published_schema_is_the_one_made_from_the_record_type(name: str) -> None:
    published = read(f"docs/schemas/{name}.json")
    assert published == json.dumps(json_schema(name), indent=2) + "\n", (
        f"write it anew: headrace config schema {name} > docs/schemas/{name}.json"
    )
    jsonschema.Draft202012Validator.check_schema(json.loads(published))


def test_every_published_schema_has_a_record_type() -> None:
    assert {path.stem for path in (ROOT / "docs" / "schemas").iterdir()} == set(SCHEMAS)


def a_prediction() -> dict[str, Any]:
    target = Target("out", 1, 1_000_000)
    facts = ImageFacts("jpeg", 640, 480, 3)
    frame = Frame(SourcePartition("frames", 3), 1042, b"...", b"cam-7", timestamp_ms=1_700_000_000_000)
    identity = ModelIdentity("m", "1", "sha256:0", "onnxruntime", "fp32")
    made = Composer(target, target, target, "kafka://c/frames/t", "classify").prediction(
        frame,
        Row(0, facts, "simplejpeg", 1.0),
        model_record(identity, "primary"),
        "sha256:1",
        {"classes": []},
        Timings(queued=0.0, decode=1.0, batch=2.0, infer=3.0),
        (frame.timestamp_ms, "broker"),
        "2026-01-01T00:00:00.000Z",
        4,
    )
    assert isinstance(made, Message)
    value: dict[str, Any] = msgspec.json.decode(made.value or b"")
    return value


def test_a_prediction_as_it_is_written_fits_its_published_schema_and_one_without_an_id_does_not() -> None:
    schema = json.loads(read("docs/schemas/prediction.json"))
    prediction = a_prediction()
    jsonschema.validate(prediction, schema)
    with pytest.raises(jsonschema.ValidationError, match="'id' is a required property"):
        jsonschema.validate({key: value for key, value in prediction.items() if key != "id"}, schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_of_a_record_is_explained(name: str) -> None:
    page = read("docs/records.md")
    schema = json_schema(name)
    fields = {field for definition in schema["$defs"].values() for field in definition.get("properties", {})}
    spans = {part for span in _SPAN.findall(page) for part in re.split(r"[^\w]+", span)}
    assert fields <= spans, f"docs/records.md does not name {sorted(fields - spans)}"


@pytest.mark.parametrize("page", ["README.md", "docs/records.md"])
def test_every_dead_letter_reason_is_explained(page: str) -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", read(page), re.MULTILINE))
    assert {reason.value for reason in Reason} <= rows


def test_the_settings_in_the_readme_exist_with_the_defaults_it_gives() -> None:
    rows = dict(_SETTING_ROW.findall(read("README.md")))
    defaults = config.flat(Settings())
    assert len(rows) >= 15
    assert rows == {key: json.dumps(defaults[key]) if key in defaults else "no such setting" for key in rows}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_or_links_exist(page: str) -> None:
    text = read(page)
    named = {path.rstrip(".") for span in _SPAN.findall(text) for path in _PATH.findall(span)}
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("/")))]
    links = [link for link in _LINK.findall(text) if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing + links == []


@pytest.mark.parametrize("page", CODE_PAGES)
def test_members_of_classes_that_a_page_names_exist(page: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "worker").rglob("*.py"))
    words = set(re.findall(r"\w+", source))
    classes = set(re.findall(r"class (\w+)", source))
    named = [member for span in _SPAN.findall(read(page)) for member in _MEMBER.findall(span)]
    assert [f"{owner}.{name}" for owner, name in named if owner not in classes or name not in words] == []
