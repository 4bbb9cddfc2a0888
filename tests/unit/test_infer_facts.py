"""What a served folder says of its model while no server can be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worker.errors import ModelError
from worker.frames import TensorSpec
from worker.infer.facts import facts_of_folder

CONFIG = (Path(__file__).parents[1] / "faults" / "models" / "actor" / "config.pbtxt").read_text()
INPUT = TensorSpec("image", np.dtype(np.uint8), (32, 32, 3))


def test_the_folder_says_what_its_server_will_but_for_the_version() -> None:
    facts = facts_of_folder(CONFIG, INPUT, ["logits"])
    assert (facts.identity.name, facts.identity.version, facts.identity.digest) == ("actor", "", "sha256:cccc")
    assert facts.input == INPUT
    assert facts.outputs == (TensorSpec("logits", np.dtype(np.float32), (4,)),)
    assert facts.max_batch_size == 32
    assert facts.preprocess_digest is None


@pytest.mark.parametrize(
    ("text", "expected", "output", "told"),
    [
        (CONFIG, TensorSpec("image", np.dtype(np.uint8), (64, 64, 3)), "logits", r"\(32, 32, 3\).*\(64, 64, 3\)"),
        (CONFIG, INPUT, "boxes", "no output boxes"),
        (CONFIG + "colour: red", INPUT, "logits", "config.pbtxt can't be read"),
        (CONFIG.replace("max_batch_size: 32", ""), INPUT, "logits", "does not batch"),
    ],
)
def test_a_folder_of_something_else_is_told(text: str, expected: TensorSpec, output: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        facts_of_folder(text, expected, [output])
