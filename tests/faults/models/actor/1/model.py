"""A model that is told how to behave: by the file `mood` in the repository, and by the picture.

The best class of an answer is the version that made it. A white picture is refused, whatever the mood. Words of a
mood: `slow SECONDS`, and `half` (by chance one request in two fails as unavailable).
"""

import os
import random
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])
        self.mood = os.path.join(args["model_repository"], os.pardir, "mood")

    def execute(self, requests):
        with open(self.mood, encoding="utf-8") as file:
            mood = file.read().split()
        return [self._respond(request, mood) for request in requests]

    def _respond(self, request, mood):
        if "half" in mood and random.random() < 0.5:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError("told to fail", pb_utils.TritonError.UNAVAILABLE)
            )
        if mood[:1] == ["slow"]:
            time.sleep(float(mood[1]))
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        if (images.reshape(len(images), -1).mean(axis=1) > 254).any():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a white picture"))
        logits = np.zeros((len(images), 4), np.float32)
        logits[:, self.version] = 5
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", logits)])
