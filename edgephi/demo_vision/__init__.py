"""The demo that sees: a Phi-3-vision of two million parameters that reads gauges, displays and lights.

The files beside this one are an ordinary Hugging Face checkpoint folder, made by
``tests/demo/train_vision.py``. Like the demo that turns commands into actions it travels inside the package.
"""
