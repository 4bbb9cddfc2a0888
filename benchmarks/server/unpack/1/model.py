"""Encoded JPEGs -> the model's input, on the server: the preprocessing half of an ensemble.

Decoder, window and filter are those of the client's side of `transport`. The code comes from the repository, and what it
needs from the peers' packages; both places are named in the config, and Triton's own packages go first.
"""

import json
import sys
from pathlib import Path

import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args):
        """Find the packages and make what every frame is decoded into."""
        config = json.loads(args["model_config"])
        sys.path += config["parameters"]["imports"]["string_value"].split(":")
        import simplejpeg

        from benchmarks.corpus import HEIGHT, WIDTH
        from worker.malloc import keep_big_buffers
        from worker.preprocess.contract import Contract
        from worker.preprocess.cpu import scaling

        keep_big_buffers()
        contract = Contract.load(Path(config["parameters"]["model_folder"]["string_value"]) / "preprocess.toml")
        window = contract.window(WIDTH, HEIGHT).source
        self._window = (slice(window.y, window.y + window.height), slice(window.x, window.x + window.width))
        self._pixels = numpy.empty((HEIGHT, WIDTH, 3), numpy.uint8)
        self._cut = numpy.empty((window.height, window.width, 3), numpy.uint8)
        self._slot = numpy.zeros((config["max_batch_size"], *contract.tensor_shape), numpy.uint8)
        self._decode, self._scale = simplejpeg.decode_jpeg, scaling(contract.filter)

    def execute(self, requests):
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        jpegs = pb_utils.get_input_tensor_by_name(request, "jpeg").as_numpy()[:, 0]
        for row, jpeg in enumerate(jpegs):
            pixels = self._decode(jpeg, colorspace="RGB", buffer=self._pixels)
            # Triton's numpy is 1.26, which takes 4 ms to make bytes of a window in a larger picture, and newer ones 0.04.
            numpy.copyto(self._cut, pixels[self._window])
            self._scale(self._cut, self._slot[row])
        image = self._slot[: len(jpegs)].copy()  # Triton reads it after the next request has come
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", image)])
