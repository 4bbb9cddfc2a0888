"""Encoded JPEGs -> the model's input, on the server: the preprocessing half of an ensemble.

What it does to a frame is what the client's side of `transport` does, by the same code. That comes from the repository, and
what it needs from the peers' packages; both places are named in the config, and Triton's own packages go first.
"""

import json
import sys

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args):
        """Find the packages and make the batch's slot."""
        config = json.loads(args["model_config"])
        sys.path += config["parameters"]["imports"]["string_value"].split(":")
        from benchmarks.sides.preparing import Preparing
        from worker.malloc import keep_big_buffers

        keep_big_buffers()  # as at the other end; without it this costs four times as much
        self._preparing = Preparing(config["parameters"]["model_folder"]["string_value"], config["max_batch_size"])

    def execute(self, requests):
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        jpegs = pb_utils.get_input_tensor_by_name(request, "jpeg").as_numpy()[:, 0]
        for row, jpeg in enumerate(jpegs):
            self._preparing.prepare(jpeg, row)
        image = self._preparing.slot[: len(jpegs)].copy()  # Triton reads it after the next request has come
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", image)])
