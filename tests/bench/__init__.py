"""Programs that measure edgephi beside its peers and print both. Not tests: run them on a quiet machine.

python -m tests.bench.build CHECKPOINT     time, memory, size of a build, beside the genai builder
python -m tests.bench.verify CHECKPOINT    time and memory of `--verify quick`
python -m tests.bench.quality CHECKPOINT   quantisation loss of a trained model, beside every peer
python -m tests.bench.quality.engines CHECKPOINT   the same bundles through their engines
python -m tests.bench.decode BUNDLE        decode speed and memory of the runner, beside a bare engine's loop
python -m tests.bench.runner BUNDLE        import time, cold start and memory, beside a bare engine's loop
python -m tests.bench.plan_memory FOLDER…  what a plan says of memory, beside what the process takes
python -m tests.bench.load                 many clients at one server: right answers, delays, memory
python -m tests.bench.reuse BUNDLE         time to the first token with what was computed before, and without
python -m tests.bench.tune CHECKPOINT      choice of `edgephi tune`, beside every candidate built whole
python -m tests.bench.qnn WHAT             what a build for Qualcomm's NPU costs, and what it answers
python -m tests.bench.flash BUNDLE         speed and memory of `edgephi flash`, beside cp + sha256sum and scp
python -m tests.bench.registry BUNDLE      speed of `push` and `flash oci://…`, beside oras and curl
python -m tests.bench.delta CHECKPOINT     bytes that another release of a bundle costs over the network
python -m tests.bench.startup              time of `edgephi --help`, size of a device's installation
python -m tests.bench.likelihoods CHECKPOINT  what lm-eval finds through `serve`, beside transformers' numbers
python -m tests.bench.same_bundles COMMIT  whether another commit builds the same bundles, byte for byte
"""
