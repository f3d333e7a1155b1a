"""The image encoder of a model that sees, as OpenVINO's graphs."""
