"""A model that shows what it was given, and sleeps or fails when the picture says so.

Each row's answer is the sum of each channel and the first two pixels of its top row. A row whose first four bytes are
`MAGIC` commands: byte 4 is 1 to sleep, 2 to raise; byte 5 is the time in 0.1 s.
"""

import time

import numpy as np
import triton_python_backend_utils as pb_utils

MAGIC = (0xDE, 0xAD, 0xBE, 0xEF)
SLEEP, RAISE = 1, 2


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(pb_utils.get_input_tensor_by_name(request, "image").as_numpy()) for request in requests]

    def _answer(self, images):
        for row in images.reshape(len(images), -1):
            if tuple(row[:4]) == MAGIC and row[4] == SLEEP:
                time.sleep(int(row[5]) * 0.1)
            if tuple(row[:4]) == MAGIC and row[4] == RAISE:
                raise ValueError("the picture told me to fail")
        # Read after the sleep: a slot that was filled anew meanwhile would show in the answer.
        sums = images.sum(axis=(1, 2), dtype=np.float32)
        corner = images[:, 0, :2, :].astype(np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("sums", sums), pb_utils.Tensor("corner", corner)])
