"""Mask and text to image."""
