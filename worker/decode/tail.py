"""What may follow a picture in its value.

Padding (zeros, 0xff) is common from cameras, and makers append data of their own that every reader skips; both pass.
A second picture does not: it would be a frame lost without a word.
"""

from __future__ import annotations

import re

from worker.decode.refusals import corrupt

# Padding is taken possessively, so the match is linear; where a JPEG follows, padding has eaten its first byte.
_ANOTHER_PICTURE = re.compile(
    rb"[\x00\xff]*+(?:(?<=\xff)\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\*\0|MM\0\*)", re.DOTALL
)


def refuse_second_picture(value: bytes, end: int) -> None:
    """Raise Rejected (corrupt) if the picture that ends before offset `end` is followed by another one."""
    if end < len(value) and _ANOTHER_PICTURE.match(value, end):
        raise corrupt(f"The value holds a second picture after its first {end:,} bytes; send one picture a record.")
