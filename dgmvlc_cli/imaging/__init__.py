"""Scan to volume and mask."""
