"""Scripts that sampling is compared with; each runs in its own environment."""
