"""Image pairs to effects."""
