"""File names of images, without reading any."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SINGLE_FILE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")
IMAGE_SUFFIXES = (*SINGLE_FILE_SUFFIXES, ".nhdr", ".mhd")


def is_image_name(name: str) -> bool:
    """Whether a file name ends as a NIfTI, NRRD or MetaImage does."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def stem(name: str) -> str:
    """A file name without its image suffix: `a.nii.gz` gives `a`."""
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem
