"""QNN, for Qualcomm's NPU."""
