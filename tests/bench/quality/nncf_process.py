"""A process that compresses the weights of an OpenVINO model with NNCF, so that its memory can be told.

`python -m tests.bench.quality.nncf_process OPTIONS SOURCE OUTPUT PIECES`: OPTIONS are JSON, keyword
arguments of `nncf.compress_weights`; PIECES is a file of NumPy with token ids [pieces, tokens].
"""

import json
import sys

import nncf
import numpy as np
import openvino


def main() -> None:
    """Read, compress, save."""
    options, source, output, pieces = sys.argv[1:]
    arguments = json.loads(options)
    if arguments.pop("calibrate", False):
        arguments["dataset"] = nncf.Dataset([text[None] for text in np.load(pieces)])
    mode = nncf.CompressWeightsMode(arguments.pop("mode"))
    compressed = nncf.compress_weights(openvino.Core().read_model(source), mode=mode, **arguments)
    openvino.save_model(compressed, output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
