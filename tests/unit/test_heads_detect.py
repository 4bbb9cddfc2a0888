"""The head of detectors: threshold, suppression and the way back to the source image, against plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig.reference_tfjs import Candidate, overlap, suppressed
from worker.errors import ModelError
from worker.frames import AnyArray
from worker.heads import Detected, DetectHead, Head
from worker.pipeline.model import placement
from worker.preprocess.contract import Contract
from worker.records import Detection, encode

LABELS = ("person", "bicycle", "car")
SIZE = (1000, 1000)  # of images that are shown as they are


def as_it_is(_width: int, _height: int) -> tuple[float, float, float, float]:
    return 1.0, 1.0, 0.0, 0.0


def head(min_score: float = 0.3, max_overlap: float = 0.5) -> DetectHead:
    return DetectHead(LABELS, as_it_is, min_score, max_overlap)


def outputs(*rows: list[Candidate]) -> dict[str, AnyArray]:
    """Candidates (score, class, box) of each row; shorter rows are filled up with candidates of score 0."""
    count = max(len(row) for row in rows)
    filled = [row + [(0.0, 0, (0.0, 0.0, 0.0, 0.0))] * (count - len(row)) for row in rows]
    return {
        "boxes": np.array([[box for _, _, box in row] for row in filled], np.float32).reshape(len(rows), count, 4),
        "scores": np.array([[score for score, _, _ in row] for row in filled], np.float32).reshape(len(rows), count),
        "classes": np.array([[index for _, index, _ in row] for row in filled], np.int32).reshape(len(rows), count),
    }


def found(reading: Detected, row: int) -> list[tuple[str, float, tuple[float, ...]]]:
    return [(each.label, each.score, each.box) for each in reading.fields(row)["detections"]]


def test_of_boxes_that_overlap_in_a_class_the_best_stays_and_other_classes_stay_beside_it() -> None:
    reading = head()(
        outputs(
            [
                (0.5, 0, (10, 10, 50, 90)),
                (0.9, 0, (12, 10, 50, 90)),
                (0.8, 1, (12, 10, 50, 90)),
                (0.2, 2, (0, 0, 9, 9)),
            ],
            [(0.6, 2, (100, 100, 200, 200))],
            [],
        ),
        [SIZE] * 3,
    )
    assert found(reading, 0) == [("person", 0.9, (12, 10, 50, 90)), ("bicycle", 0.8, (12, 10, 50, 90))]
    assert found(reading, 1) == [("car", 0.6, (100, 100, 200, 200))]
    assert found(reading, 2) == []
    index, score = reading.top
    assert index.tolist() == [0, 2, -1]
    assert score.tolist() == pytest.approx([0.9, 0.6, 0])
    assert not reading.failed.any()


def test_a_box_that_a_suppressed_one_overlaps_stays() -> None:
    chain: list[Candidate] = [
        (0.9, 0, (0.0, 0.0, 100.0, 10.0)),
        (0.8, 0, (30.0, 0.0, 130.0, 10.0)),
        (0.7, 0, (60.0, 0.0, 160.0, 10.0)),
    ]
    assert [score for _, score, _ in found(head()(outputs(chain), [SIZE]), 0)] == [0.9, 0.7]


candidates = st.lists(
    st.tuples(
        st.integers(0, 1000).map(lambda n: n / 1000),
        st.integers(0, 2),
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12), st.integers(1, 12)).map(
            lambda b: (10.0 * b[0], 10.0 * b[1], 10.0 * (b[0] + b[2]), 10.0 * (b[1] + b[3]))
        ),
    ),
    max_size=25,
)


@settings(max_examples=50)
@given(rows=st.lists(candidates, min_size=1, max_size=4), max_overlap=st.sampled_from([0.0, 0.31, 0.47, 0.73, 1.0]))
def test_a_whole_batch_gives_what_plain_loops_give_row_by_row(rows: list[list[Candidate]], max_overlap: float) -> None:
    reading = head(0.3, max_overlap)(outputs(*rows), [SIZE] * len(rows))
    for number, row in enumerate(rows):
        at_float32 = [(float(np.float32(score)), index, box) for score, index, box in row]
        wanted = suppressed(at_float32, float(np.float32(0.3)), max_overlap)
        assert found(reading, number) == [(LABELS[index], round(score, 6), box) for score, index, box in wanted]


def test_boxes_come_back_to_the_pixels_of_the_upright_image_and_end_at_its_edge() -> None:
    contract = Contract.parse(
        "width = 512\nheight = 512\nresize = 'letterbox'\npad_value = 0\nfilter = 'bilinear'\ncolour = 'rgb'\n"
        "mean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\nlayout = 'nhwc'\nwire_dtype = 'uint8'\nscaled_decode = false\n"
    )
    detect = DetectHead(LABELS, placement(contract), 0.3, 0.5)
    # 768x576 is shown at two thirds, 64 pixels from the top; 512x1024 at half, 128 from the left; 256x256 doubled.
    rows = outputs(
        [(0.9, 0, (100, 164, 200, 264)), (0.8, 0, (-40, 60, 30, 600)), (0.7, 0, (10, 10, 90, 60))],
        [(0.9, 1, (128, 0, 384, 512))],
        [(0.9, 2, (0, 0, 256, 128))],
    )
    reading = detect(rows, [(768, 576), (512, 1024), (256, 256)])
    # What lies in the black above the picture is no object.
    assert found(reading, 0) == [("person", 0.9, (150, 150, 300, 300)), ("person", 0.8, (0, 0, 45, 576))]
    assert found(reading, 1) == [("bicycle", 0.9, (0, 0, 512, 1024))]
    assert found(reading, 2) == [("car", 0.9, (0, 0, 128, 64))]


def test_a_stretched_and_a_cropped_picture_come_back_too() -> None:
    common = (
        "width = 200\nheight = 100\nfilter = 'bilinear'\ncolour = 'rgb'\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\n"
        "layout = 'nhwc'\nwire_dtype = 'uint8'\nscaled_decode = false\n"
    )
    stretch = Contract.parse(f"{common}resize = 'stretch'\n")
    crop = Contract.parse(f"{common}resize = 'shorter_side_crop'\ncrop_fraction = 0.5\n")
    rows = outputs([(0.9, 0, (20, 10, 100, 50))])
    assert found(DetectHead(LABELS, placement(stretch), 0.3, 0.5)(rows, [(400, 400)]), 0)[0][2] == (40, 40, 200, 200)
    # The middle 400x200 of 800x800 is what the model sees.
    assert found(DetectHead(LABELS, placement(crop), 0.3, 0.5)(rows, [(800, 800)]), 0)[0][2] == (240, 320, 400, 400)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_a_row_that_is_no_number_fails_alone(name: str, poison: float) -> None:
    rows = outputs([(0.9, 0, (0, 0, 10, 10))], [(0.9, 1, (5, 5, 10, 10))])
    rows[name][(0,) * rows[name].ndim] = poison
    reading = head()(rows, [SIZE] * 2)
    assert reading.failed.tolist() == [True, False]
    assert found(reading, 1) == [("bicycle", 0.9, (5, 5, 10, 10))]


def test_boxes_without_area_are_no_detections() -> None:
    rows = outputs([(0.9, 0, (10, 10, 10, 20)), (0.8, 0, (30, 30, 20, 20)), (0.7, 0, (10, 10, 20, 20))])
    assert [score for _, score, _ in found(head()(rows, [SIZE]), 0)] == [0.7]


def test_detections_go_to_json_as_the_contract_says() -> None:
    reading = head()(outputs([(0.87654321, 1, (1 / 3, 2.5, 10, 20))]), [SIZE])
    assert encode(reading.fields(0)["detections"]) == (
        b'[{"index":1,"label":"bicycle","score":0.876543,"box":[0.33,2.5,10.0,20.0]}]'
    )
    assert json.loads(encode(Detection(index=0, label="a", score=1.0, box=(0, 0, 1, 1))))["box"] == [0, 0, 1, 1]


def test_a_batch_without_candidates_has_no_detections() -> None:
    reading = head()(outputs([], []), [SIZE] * 2)
    assert [reading.fields(row) for row in range(2)] == [{"detections": []}] * 2
    assert reading.top[0].tolist() == [-1, -1]


def test_the_head_does_not_write_into_the_tensors_it_reads() -> None:
    rows = outputs([(0.5, 0, (10, 10, 50, 90)), (0.9, 0, (12, 10, 50, 90))])
    for array in rows.values():
        array.flags.writeable = False
    assert len(found(head()(rows, [SIZE]), 0)) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scores": None}, "no output `scores`, only boxes, classes"),
        ({"boxes": np.zeros((1, 2, 4))}, r"boxes \(1, 2, 4\), scores \(1, 1\).*expected \(1, K, 4\)"),
        ({"scores": np.zeros((2, 1)), "classes": np.zeros((2, 1)), "boxes": np.zeros((2, 1, 4))}, r"\(1, K, 4\)"),
        ({"classes": np.full((1, 1), 3)}, "`classes` holds 3 to 3, but there are 3 labels"),
        ({"classes": np.full((1, 1), -1)}, "`classes` holds -1 to -1"),
    ],
)
def test_outputs_that_are_not_a_detectors_are_refused(change: dict[str, AnyArray | None], sentence: str) -> None:
    rows = outputs([(0.9, 0, (0, 0, 10, 10))]) | change
    with pytest.raises(ModelError, match=sentence):
        head()({name: array for name, array in rows.items() if array is not None}, [SIZE])


def test_the_detection_head_is_one_of_the_heads() -> None:
    heads: list[Head] = [head()]
    assert heads[0].output_names == ("boxes", "scores", "classes")
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
