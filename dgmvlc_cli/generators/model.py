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
from dgmvlc_cli.generators.flow import Conditions, mask_context, sample
from dgmvlc_cli.generators.networks import TextUNet
from dgmvlc_cli.imaging.intensity import Standardiser
from dgmvlc_cli.text.projection import Projection

HU_RANGE = (-1024.0, 3071.0)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What turns scans and sentences into network inputs, fixed on the training subjects.

    band_scale: (B,) SD of each wavelet band of the standardised image.
    encoder, encoder_sha256: the text encoder whose embeddings the projection reads.
    """

    standardiser: Standardiser
    projection: Projection
    band_scale: np.ndarray
    grid: tuple[int, int, int]
    spacing_mm: float
    wavelet_levels: int
    encoder: str
    encoder_sha256: str


@dataclass(frozen=True, kw_only=True)
class Generator:
    """mask + sentence embedding + noise -> HU."""

    network: TextUNet
    conditioning: Conditioning

    @property
    def sigma(self) -> torch.Tensor:
        """(1, B, 1, 1, 1) band scales."""
        return torch.from_numpy(self.conditioning.band_scale)[None, :, None, None, None]

    def conditions(self, labels: np.ndarray, embeddings: np.ndarray) -> Conditions:
        """labels: (N, D, H, W) Tissue values; embeddings: (N, E) of the encoder."""
        context = mask_context(torch.from_numpy(labels), self.conditioning.wavelet_levels)
        text = torch.from_numpy(self.conditioning.projection(embeddings))
        return Conditions(context=context, text=text)

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
        shift: float,
        guidance_scale: float = 1.0,
    ) -> np.ndarray:
        """noise: (N, B, d, h, w); labels: (N, D, H, W); embeddings: (N, E) -> HU (N, D, H, W)."""
        device = self.network.device
        conditions = self.conditions(labels, embeddings)
        bands = sample(
            self.network,
            torch.from_numpy(noise).to(device),
            Conditions(context=conditions.context.to(device), text=conditions.text.to(device)),
            self.sigma.to(device),
            steps=steps,
            shift=shift,
            guidance_scale=guidance_scale,
        )
        z = wavelet.inverse(bands, self.conditioning.wavelet_levels)[:, 0].cpu().numpy()
        return self.conditioning.standardiser.to_hu(z, labels).clip(*HU_RANGE)

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
            "band_scale": conditioning.band_scale,
        }
        with workspace.atomic_path(folder / "conditioning.safetensors") as temporary:
            temporary.write_bytes(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        facts = {
            "standardiser": asdict(conditioning.standardiser),
            "grid": conditioning.grid,
            "spacing_mm": conditioning.spacing_mm,
            "wavelet_levels": conditioning.wavelet_levels,
            "encoder": conditioning.encoder,
            "encoder_sha256": conditioning.encoder_sha256,
        }
        workspace.write_json(folder / "conditioning.json", facts)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Generator:
        """The generator saved in a folder.  Raises DgmvlcError where a file is damaged."""
        try:
            arrays = load_file(folder / "conditioning.safetensors")
            facts = json.loads((folder / "conditioning.json").read_text())
            network = TextUNet.from_pretrained(folder, low_cpu_mem_usage=False)
        except Exception as error:
            raise DgmvlcError(
                f"Cannot load the model in {folder}: {error}", "Train it again."
            ) from error
        standardiser = {key: tuple(value) for key, value in facts.pop("standardiser").items()}
        conditioning = Conditioning(
            standardiser=Standardiser(**standardiser),
            projection=Projection(mean=arrays["mean"], matrix=arrays["matrix"]),
            band_scale=arrays["band_scale"],
            **{**facts, "grid": tuple(facts["grid"])},
        )
        network.eval().requires_grad_(False)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = network.to(device, memory_format=torch.channels_last_3d)
        return cls(network=network, conditioning=conditioning)
