"""ONNX, for onnxruntime-genai."""
