"""Floor 3, numbers: group-wise integer codes and scales, the same ones for every engine."""
