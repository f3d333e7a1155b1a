"""The demo checkpoint: a Phi-3 of two million parameters that turns spoken home commands into JSON actions.

The files beside this one are an ordinary Hugging Face checkpoint folder, made by ``tests/demo/train.py``.
It is small enough to travel inside the package, so every step from checkpoint to running bundle can be
tried without a download.
"""
