"""Heads: batches of output tensors to classes and embeddings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worker.errors import ModelError
from worker.frames import AnyArray, Float32Array
from worker.heads import ClassifyHead, EmbedHead, Head, load_labels
from worker.records import ClassScore, encode

LABELS = tuple(f"label {index}" for index in range(10))


def test_the_best_classes_come_first_with_their_probabilities_and_labels() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.05, 0.25], [0.7, 0.1, 0.15, 0.05]], np.float32))
    reading = ClassifyHead(LABELS[:4], top_k=2)({"logits": logits, "embedding": np.zeros((2, 8))})
    assert reading.indices.tolist() == [[1, 3], [0, 2]]
    assert reading.scores.dtype == np.float32
    assert reading.scores == pytest.approx(np.array([[0.6, 0.25], [0.7, 0.15]]), rel=1e-5)
    assert not reading.failed.any()
    assert reading.fields(1) == {
        "classes": [ClassScore(index=0, label="label 0", score=0.7), ClassScore(index=2, label="label 2", score=0.15)]
    }
    index, score = reading.top
    assert (index.tolist(), score.shape) == ([1, 0], (2,))


logit_batches = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(10)), elements=st.floats(-100, 100, width=32)
)


@given(logit_batches, st.integers(1, 20))
def test_scores_are_the_softmax_of_all_classes_and_the_k_best_of_them(logits: Float32Array, top_k: int) -> None:
    reading = ClassifyHead(LABELS, top_k)({"logits": logits})
    k = min(top_k, 10)
    assert reading.indices.shape == reading.scores.shape == (len(logits), k)
    for row in range(len(logits)):
        exponents = [math.exp(value - float(logits[row].max())) for value in logits[row].tolist()]
        softmax = [value / sum(exponents) for value in exponents]
        chosen = reading.indices[row].tolist()
        assert len(set(chosen)) == k
        assert reading.scores[row] == pytest.approx([softmax[index] for index in chosen], rel=1e-4, abs=1e-7)
        assert reading.scores[row].tolist() == sorted(reading.scores[row].tolist(), reverse=True)
        rest = set(range(10)) - set(chosen)
        assert max((logits[row, index] for index in rest), default=-math.inf) <= logits[row, chosen].min()


def test_equal_logits_come_in_order_of_their_index() -> None:
    reading = ClassifyHead(LABELS, top_k=10)({"logits": np.zeros((1, 10), np.float32)})
    assert reading.indices[0].tolist() == list(range(10))


def test_classes_too_close_for_their_scores_are_still_chosen_by_their_logits() -> None:
    logits = np.array([[3, 1e-7, 0, 1e-7, 1e-7, 0, 0, 0, 0, 0]], np.float32)
    reading = ClassifyHead(LABELS, top_k=4)({"logits": logits})
    assert reading.indices[0].tolist() == [0, 1, 3, 4]


def test_huge_logits_do_not_overflow_and_impossible_classes_score_zero() -> None:
    logits = np.array([[1e30, -1e30, -np.inf, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    reading = ClassifyHead(LABELS, top_k=10)({"logits": logits})
    assert reading.scores[0].tolist() == [1.0] + [0.0] * 9
    assert not reading.failed[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_row_that_is_no_number_fails_alone(poison: float) -> None:
    logits = np.arange(40, dtype=np.float32).reshape(4, 10)
    healthy = ClassifyHead(LABELS, top_k=3)({"logits": logits})
    logits[1, 4] = poison
    reading = ClassifyHead(LABELS, top_k=3)({"logits": logits})
    assert reading.failed.tolist() == [False, True, False, False]
    for row in (0, 2, 3):
        assert reading.fields(row) == healthy.fields(row)


def test_a_row_without_any_possible_class_fails() -> None:
    assert ClassifyHead(LABELS, top_k=1)({"logits": np.full((1, 10), -np.inf, np.float32)}).failed[0]


def test_half_precision_logits_are_classified() -> None:
    logits = np.eye(10, dtype=np.float16)[:2] * 5
    reading = ClassifyHead(LABELS, top_k=1)({"logits": logits})
    assert reading.indices.tolist() == [[0], [1]]
    assert reading.scores[0, 0] == pytest.approx(math.exp(5) / (math.exp(5) + 9), rel=1e-5)


def test_the_heads_do_not_write_into_the_tensors_they_read() -> None:
    logits = np.full((2, 10), np.nan, np.float32)
    logits.flags.writeable = False
    assert ClassifyHead(LABELS, top_k=5)({"logits": logits}).failed.all()


def test_scores_go_to_json_with_six_digits() -> None:
    reading = ClassifyHead(LABELS[:2], top_k=2)({"logits": np.array([[1.0, 0.0]], np.float32)})
    assert encode(reading.fields(0)["classes"]) == (
        b'[{"index":0,"label":"label 0","score":0.731059},{"index":1,"label":"label 1","score":0.268941}]'
    )


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ({"probabilities": np.zeros((1, 10))}, "no output `logits`, only probabilities"),
        ({}, "no output `logits`, only nothing"),
        ({"logits": np.zeros((1, 999))}, r"`logits` has shape \(1, 999\); expected \(rows, 10\)"),
        ({"logits": np.zeros(10)}, r"`logits` has shape \(10,\); expected \(rows, 10\)"),
    ],
)
def test_outputs_that_are_not_the_heads_are_refused_by_name_and_shape(
    outputs: dict[str, AnyArray], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        ClassifyHead(LABELS, top_k=5)(outputs)


def test_an_embedding_travels_as_numbers_of_six_decimals() -> None:
    vectors = np.array([[0.1, -2.5, 1 / 3], [1, 2, 3]], np.float32)
    reading = EmbedHead()({"embedding": vectors})
    assert reading.fields(0) == {"embedding": [0.1, -2.5, 0.333333]}
    assert json.loads(encode(reading.fields(1))) == {"embedding": [1.0, 2.0, 3.0]}
    assert reading.top is None
    assert not reading.failed.any()


def test_an_embedding_that_is_no_number_fails_alone() -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[2, 1] = -np.inf
    assert EmbedHead()({"embedding": vectors}).failed.tolist() == [False, False, True]


def test_a_feature_map_is_no_embedding() -> None:
    with pytest.raises(ModelError, match=r"`embedding` has shape \(1, 8, 2, 2\)"):
        EmbedHead()({"embedding": np.zeros((1, 8, 2, 2))})


def test_both_heads_are_interchangeable() -> None:
    heads: list[Head] = [ClassifyHead(LABELS, 5), EmbedHead()]
    assert [(head.task, head.output_names) for head in heads] == [
        ("classify", ("logits",)),
        ("embed", ("embedding",)),
    ]


def test_labels_are_read_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("tench, Tinca tinca\ncrane\r\ncrane\n", encoding="utf-8")
    assert load_labels(path, 3) == ("tench, Tinca tinca", "crane", "crane")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"cat\ndog\n", "labels.txt has 2 labels, but the model's output `logits` has 3 classes"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_labels_that_do_not_fit_the_model_are_refused(tmp_path: Path, text: bytes, sentence: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text)
    with pytest.raises(ModelError, match=sentence):
        load_labels(path, 3)


def test_missing_labels_are_the_models_owners_to_bring(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't read the labels"):
        load_labels(tmp_path / "labels.txt", 3)
