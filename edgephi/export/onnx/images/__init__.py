"""What sees, in ONNX: for onnxruntime-genai, and beside the files of engines that cannot see."""
