"""What quantisation costs a trained model: ours beside every peer that runs here.

The same English, the same float32 arithmetic and the same count of bits for all. Random weights cannot tell:
they have neither the outliers that make rounding expensive nor anything to forget.
"""
