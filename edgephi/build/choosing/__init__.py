"""Which target, which groups and which kernels serve best: by their plans, or by trying them."""
