"""MLX, for mlx-lm."""
