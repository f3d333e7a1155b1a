"""OpenVINO, for openvino-genai."""
