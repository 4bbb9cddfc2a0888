"""The preprocessing contract: how an upright RGB image becomes a model's input, as the model's owner wrote it down.

`preprocess.toml` is read, checked and hashed here; the hash travels with every prediction. The geometry (which part
of the source lands where in the model's input) is pure arithmetic, shared by the transform, by decoding, and by whoever
maps coordinates back to the source.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from worker.errors import ModelError

# Above any vision model's input; a typo beyond it would make batch slots of gigabytes.
MAX_SIDE = 8192
# JPEG's DCT scales are 1/2, 1/4 and 1/8; those between lack SIMD code and cost more than full size.
DENOMINATORS = (8, 4, 2)
# Pixels that a window decoded at such a scale must keep for each of the model's, in each direction. With fewer, about one frame
# in a hundred changes its class, and about one for one, where the filter's triangle falls onto single pixels, several do.
LEAST_COVER = 1.05

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Resize = Literal["stretch", "letterbox", "shorter_side_crop"]
Filter = Literal["bilinear", "area", "bilinear_antialias"]
Colour = Literal["rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of whole pixels: left top corner, width and height."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Window:
    """`source` (pixels of the upright image) is scaled onto `destination` (pixels of the model's input).

    A source point (u, v) lands on (destination.x + (u - source.x) * destination.width / source.width, likewise y).
    """

    source: Rect
    destination: Rect


class ContractKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `preprocess.toml`. `mean` and `std` are in grey levels: a normalised value is (x - mean) / std.

    `wire_dtype` is what travels to the model; with `uint8` the model's own graph normalises. `crop_fraction` is required
    by `shorter_side_crop`, `pad_value` (grey level around the image) by `letterbox`.
    """

    width: Side
    height: Side
    resize: Resize
    filter: Filter
    colour: Colour
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["nhwc", "nchw"]
    wire_dtype: Literal["uint8", "float32", "float16"]
    scaled_decode: bool
    crop_fraction: Annotated[float, Meta(gt=0, le=1)] | None = None
    pad_value: Annotated[int, Meta(ge=0, le=255)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec reports with the place, for values that don't fit each other."""
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must be finite, and std above 0 (grey levels, 0..255)"
            )
        if self.resize == "shorter_side_crop" and self.crop_fraction is None:
            raise ValueError(
                'resize = "shorter_side_crop" needs the key `crop_fraction` (1.0 keeps the whole shorter side)'
            )
        if self.resize != "shorter_side_crop" and self.crop_fraction not in (None, 1.0):
            raise ValueError(
                f'crop_fraction = {self.crop_fraction} has no effect with resize = "{self.resize}"; remove it'
            )
        if self.resize == "letterbox" and self.pad_value is None:
            raise ValueError('resize = "letterbox" needs the key `pad_value` (grey level 0..255 around the image)')
        if self.scaled_decode and self.filter != "bilinear_antialias":
            raise ValueError(
                f'scaled_decode = true needs filter = "bilinear_antialias": with "{self.filter}" a scaled picture gives '
                "other predictions than a whole one"
            )


class Contract(ContractKeys, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A checked contract and its `digest`: `sha256:` and the hash of the file's parsed content."""

    digest: str

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read `preprocess.toml`. Raises ModelError naming the file, the key and, if it is unknown, the nearest known."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(
                f"can't read the preprocessing contract {path}: {error.strerror}; every model needs a preprocess.toml"
            ) from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is not UTF-8 text: {error}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "preprocess.toml") -> Contract:
        """As `load`, from the file's text; `name` stands for the file in errors."""
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ModelError(f"{name} is not valid TOML: {error}") from error
        known = ContractKeys.__struct_fields__
        for key in parsed:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
                raise ModelError(f"{name}: unknown key `{key}`; {hint}")
        try:
            return msgspec.convert({**parsed, "digest": digest(parsed)}, cls)
        except msgspec.ValidationError as error:
            raise ModelError(f"{name}: {error}") from error

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """Shape of one image on the wire, without the batch dimension."""
        return (self.height, self.width, 3) if self.layout == "nhwc" else (3, self.height, self.width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the wire."""
        return np.dtype(self.wire_dtype)

    def window(self, width: int, height: int) -> Window:
        """Which part of an upright image of width x height pixels lands where in the model's input.

        `shorter_side_crop`: the largest centred rectangle of the model's aspect ratio, its sides times `crop_fraction`,
        rounded half up to whole pixels. `letterbox`: the whole image, centred, aspect ratio kept.
        """
        whole = Rect(0, 0, self.width, self.height)
        if self.resize == "stretch":
            return Window(Rect(0, 0, width, height), whole)
        # Compared as integers: an image that has the model's aspect ratio must not lose a pixel to rounding.
        wider = width * self.height >= height * self.width
        if self.resize == "letterbox":
            if wider:
                inner = (self.width, _rounded(height * self.width / width, self.height))
            else:
                inner = (_rounded(width * self.height / height, self.width), self.height)
            return Window(Rect(0, 0, width, height), _centred(inner, self.width, self.height))
        fraction = 1.0 if self.crop_fraction is None else self.crop_fraction
        if wider:
            crop = (_rounded(height * self.width / self.height * fraction, width), _rounded(height * fraction, height))
        else:
            crop = (_rounded(width * fraction, width), _rounded(width * self.height / self.width * fraction, height))
        return Window(_centred(crop, width, height), whole)

    def decode_target(self, width: int, height: int) -> tuple[int, int] | None:
        """Least (width, height) an upright image of this size may be decoded to: the smallest of 1/2, 1/4 and 1/8 of it,
        rounded up, at which its window still has LEAST_COVER pixels for each of the model's in both directions.

        None: decode at full size, because the contract forbids scaled decoding or the image has no pixels to spare.
        """
        if not self.scaled_decode:
            return None
        window = self.window(width, height)
        cover = min(
            window.source.width / window.destination.width,
            window.source.height / window.destination.height,
        )
        for denominator in DENOMINATORS:
            if cover >= LEAST_COVER * denominator:
                return -(-width // denominator), -(-height // denominator)
        return None


def denominator_of(decoded: tuple[int, int], full: tuple[int, int]) -> int:
    """At which of 1, 1/2, 1/4, 1/8 an image of `full` (width, height) was decoded. Raises ValueError if at none of them."""
    for denominator in (1, *reversed(DENOMINATORS)):
        if decoded == (-(-full[0] // denominator), -(-full[1] // denominator)):
            return denominator
    raise ValueError(f"{decoded[0]} x {decoded[1]} pixels are no scale of an image of {full[0]} x {full[1]}")


def digest(parsed: dict[str, Any]) -> str:
    """`sha256:…` of a parsed contract as canonical JSON: comments and the order of keys don't count, values do."""
    canonical = json.dumps(parsed, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _rounded(value: float, most: int) -> int:
    """Half up, and within 1..most."""
    return min(most, max(1, math.floor(value + 0.5)))


def _centred(size: tuple[int, int], width: int, height: int) -> Rect:
    return Rect((width - size[0]) // 2, (height - size[1]) // 2, *size)
