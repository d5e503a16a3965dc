"""Effects to pages."""
