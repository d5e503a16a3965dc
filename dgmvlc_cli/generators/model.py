"""A trained generator as a folder: the network and everything that inference needs.

`config.json` and `diffusion_pytorch_model.safetensors` are the network as diffusers saves it;
`conditioning.safetensors` and `conditioning.json` hold the reading of the text, the class
locations and scales, the band scales, and what the model refuses to run without.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.generators.conditions import (
    Conditions,
    blocks,
    coefficient_scale,
    mask_context,
)
from dgmvlc_cli.generators.families import build_family, describe_family
from dgmvlc_cli.generators.family import Family
from dgmvlc_cli.generators.level import Level
from dgmvlc_cli.generators.networks import TextUNet
from dgmvlc_cli.imaging.intensity import Standardiser
from dgmvlc_cli.text.projection import Projection

HU_RANGE = (-1024.0, 3071.0)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What turns scans and sentences into network inputs, fixed on the training subjects.

    level: the lung's level that a sentence implies; the network generates what is left.
    band_scale: (6, B) SD of each wavelet band in each kind of block.
    encoder, encoder_sha256: the text encoder whose embeddings the projection reads.
    """

    standardiser: Standardiser
    projection: Projection
    level: Level
    band_scale: np.ndarray
    grid: tuple[int, int, int]
    spacing_mm: float
    wavelet_levels: int
    encoder: str
    encoder_sha256: str

    def to_bands(self, hu: np.ndarray, labels: np.ndarray, text: np.ndarray) -> torch.Tensor:
        """HU (N, D, H, W) -> wavelet bands (N, B, d, h, w) of what the level leaves over."""
        z = self.standardiser.to_z(hu, labels) - self.level(text, labels)
        return wavelet.forward(torch.from_numpy(z)[:, None], self.wavelet_levels)

    def to_hu(self, bands: torch.Tensor, labels: np.ndarray, text: np.ndarray) -> np.ndarray:
        """The inverse of to_bands, within the range of HU."""
        residual = wavelet.inverse(bands, self.wavelet_levels)[:, 0].numpy()
        z = residual + self.level(text, labels)
        return self.standardiser.to_hu(z, labels).clip(*HU_RANGE)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """mask + sentence embedding + noise -> HU."""

    network: TextUNet
    family: Family
    conditioning: Conditioning

    def conditions(self, labels: np.ndarray, text: np.ndarray) -> Conditions:
        """labels: (N, D, H, W) Tissue values; text: (N, K) projected embeddings."""
        of = self.conditioning
        voxels = torch.from_numpy(labels)
        return Conditions(
            context=mask_context(voxels, of.wavelet_levels),
            text=torch.from_numpy(text),
            sigma=coefficient_scale(of.band_scale, blocks(voxels, of.wavelet_levels)),
        ).to(self.network.device)

    def noise_shape(self) -> tuple[int, int, int, int]:
        """Shape of one image's noise in wavelet space: (B, d, h, w)."""
        levels = self.conditioning.wavelet_levels
        d, h, w = (side // 2**levels for side in self.conditioning.grid)
        return wavelet.BANDS_PER_LEVEL**levels, d, h, w

    def generate(
        self,
        noise: np.ndarray,
        labels: np.ndarray,
        embeddings: np.ndarray,
        *,
        steps: int,
        guidance_scale: float = 1.0,
        residuals: torch.Tensor | None = None,
    ) -> np.ndarray:
        """noise: (N, B, d, h, w); labels: (N, D, H, W); embeddings: (N, E) -> HU (N, D, H, W).

        residuals: what `invert` found in a real scan; without them the scan is a new one.
        """
        text = self.conditioning.projection(embeddings)
        bands = self.family.sample(
            self.network,
            torch.from_numpy(noise).to(self.network.device),
            self.conditions(labels, text),
            steps=steps,
            guidance_scale=guidance_scale,
            residuals=residuals,
        )
        return self.conditioning.to_hu(bands.cpu(), labels, guidance_scale * text)

    def invert(
        self,
        hu: np.ndarray,
        noise: np.ndarray,
        labels: np.ndarray,
        embeddings: np.ndarray,
        *,
        steps: int,
    ) -> torch.Tensor:
        """Abduction: residuals with which `generate` gives these scans back.

        hu: (N, D, H, W) real scans; the others as in `generate`, with the factual sentences.
        """
        text = self.conditioning.projection(embeddings)
        return self.family.invert(
            self.network,
            self.conditioning.to_bands(hu, labels, text).to(self.network.device),
            torch.from_numpy(noise).to(self.network.device),
            self.conditions(labels, text),
            steps=steps,
        )

    def save(self, folder: Path) -> None:
        """Write the folder; refuses a network that holds a non-finite weight."""
        for name, tensor in self.network.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise DgmvlcError(
                    f"Weight {name} is not finite, so the model is not saved.",
                    "Train again with a smaller `learning_rate` under [train].",
                )
        try:
            self.network.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            raise DgmvlcError(
                f"Cannot write the model to {folder}: {error}",
                "Free some space and run the same command again; the last checkpoint is kept.",
            ) from error
        conditioning = self.conditioning
        arrays = {
            "mean": conditioning.projection.mean,
            "matrix": conditioning.projection.matrix,
            "level_mean": conditioning.level.mean,
            "level_slopes": conditioning.level.slopes,
            "band_scale": conditioning.band_scale,
        }
        with workspace.atomic_path(folder / "conditioning.safetensors") as temporary:
            temporary.write_bytes(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        facts = {
            "family": describe_family(self.family),
            "standardiser": asdict(conditioning.standardiser),
            "grid": conditioning.grid,
            "spacing_mm": conditioning.spacing_mm,
            "wavelet_levels": conditioning.wavelet_levels,
            "encoder": conditioning.encoder,
            "encoder_sha256": conditioning.encoder_sha256,
        }
        workspace.write_json(folder / "conditioning.json", facts)

    @classmethod
    def from_pretrained(cls, folder: Path, sampler: str | None = None) -> Generator:
        """The generator saved in a folder.  Raises DgmvlcError where a file is damaged.

        sampler: of a diffusion, other than its own.
        """
        try:
            arrays = load_file(folder / "conditioning.safetensors")
            facts = json.loads((folder / "conditioning.json").read_text())
            network = TextUNet.from_pretrained(folder, low_cpu_mem_usage=False)
        except Exception as error:
            raise DgmvlcError(
                f"Cannot load the model in {folder}: {error}",
                "Train it again with `dgmvlc train --force`.",
            ) from error
        other = {} if sampler is None else {"sampler": sampler}
        family = build_family(**{**facts.pop("family"), **other})
        standardiser = facts.pop("standardiser")
        standardiser["location_hu"] = tuple(map(tuple, standardiser["location_hu"]))
        standardiser["scale_hu"] = tuple(standardiser["scale_hu"])
        conditioning = Conditioning(
            standardiser=Standardiser(**standardiser),
            projection=Projection(mean=arrays["mean"], matrix=arrays["matrix"]),
            level=Level(mean=arrays["level_mean"], slopes=arrays["level_slopes"]),
            band_scale=arrays["band_scale"],
            **{**facts, "grid": tuple(facts["grid"])},
        )
        network.eval().requires_grad_(False)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = network.to(device, memory_format=torch.channels_last_3d)
        return cls(network=network, family=family, conditioning=conditioning)
