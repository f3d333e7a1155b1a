"""Numbers: group-wise integer codes and scales, the same ones for every engine."""
