"""The names of what goes in and out of the graphs of the engine's own pipeline, where they meet."""

IMAGE_SIZES, FEATURES, EMBEDDINGS = "image_sizes", "image_features", "inputs_embeds"
"""As the engine's processor and its other pipelines call them."""
