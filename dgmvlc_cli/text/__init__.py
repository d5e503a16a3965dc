"""Table row to sentence to embedding."""
