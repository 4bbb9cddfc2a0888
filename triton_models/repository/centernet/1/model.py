"""Triton's python backend around onnxruntime: runs the `model.onnx` that lies beside this file.

One process an instance, each with a session of one thread: Triton's instances are the parallelism. A request is a
whole batch already, so requests are run one by one, straight from Triton's shared memory and back into it.
"""

import os

import numpy
import onnxruntime
import triton_python_backend_utils as pb_utils

# Lite2 in batches of 16 takes 216 MB an instance this way and 489 MB at once; the CPU time is the same or a little less.
ROWS_AT_A_TIME = 4


class TritonPythonModel:
    """One instance. Triton calls `initialize` once and `execute` with every request or group of requests."""

    def initialize(self, args):
        """Load the graph of the version that Triton asks for."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self.input,) = (tensor.name for tensor in self.session.get_inputs())

    def execute(self, requests):
        """One response a request, holding the outputs it asked for and no others: nothing else is copied or sent."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        names = request.requested_output_names()
        image = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
        try:
            parts = [
                self.session.run(names, {self.input: image[start : start + ROWS_AT_A_TIME]})
                for start in range(0, len(image), ROWS_AT_A_TIME)
            ]
            values = parts[0] if len(parts) == 1 else [numpy.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        except Exception as error:  # one bad request must not fail those that arrived with it
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime: {error}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in zip(names, values, strict=True)])
