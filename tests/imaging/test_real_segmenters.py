"""The adapters against the packages themselves; only the weights, which are not here, are replaced.

Run where `lungmask` or `TotalSegmentator` is installed, elsewhere skipped.
"""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging import segmenters
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import LUNGS, Tissue


@pytest.fixture
def turned(chest):
    """The chest on an oblique grid far from the origin, with its true labels."""
    direction = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    return replace(chest[0], direction=direction, origin_mm=(100.0, -200.0, 300.0)), chest[1]


class Threshold(torch.nn.Module):
    """Answers as a trained network does for lungs: (n, classes, rows, columns) from dark pixels.

    left, right: classes of the halves of the image.
    """

    def __init__(self, classes: int, right: int, left: int) -> None:
        super().__init__()
        self.classes, self.right, self.left = classes, right, left

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hu = x[:, 0] * 1624 - 1024  # lungmask maps -1024..600 HU to 0..1
        side = torch.where(torch.arange(hu.shape[-1]) < hu.shape[-1] // 2, self.right, self.left)
        rows = torch.linspace(-1, 1, hu.shape[-2])[:, None] ** 2
        columns = torch.linspace(-1, 1, hu.shape[-1]) ** 2
        found = side * ((hu < -400) & (rows + columns < 0.8)).long()
        return torch.nn.functional.one_hot(found, self.classes).permute(0, 3, 1, 2).float()


@pytest.fixture
def lungmask(monkeypatch):
    """The package, with weights drawn at random instead of downloaded."""
    package = pytest.importorskip("lungmask", reason="lungmask is not installed")
    from lungmask.mask import MODEL_URLS
    from lungmask.resunet import UNet

    def drawn(url: str, **_: object) -> dict[str, torch.Tensor]:
        (classes,) = (n for known, n in MODEL_URLS.values() if known == url)
        net = UNet(n_classes=classes, padding=True, up_mode="upsample", batch_norm=True)
        return net.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", drawn)
    segmenters._lungmask_inferer.cache_clear()
    yield package
    segmenters._lungmask_inferer.cache_clear()


def test_lungmask_takes_the_scan_and_gives_values_on_its_grid(lungmask, turned):
    volume, _ = turned
    two = replace(volume, hu=volume.hu[20:22])
    values = segmenters._lungmask(two)
    assert values.shape == two.hu.shape and values.dtype == np.uint8
    assert set(np.unique(values)) <= {0, 1, 2}


def test_lungmask_has_the_sides_where_they_are(lungmask, turned, dice):
    volume, truth = turned
    segmenters._lungmask_inferer(segmenters.LUNGMASK_MODEL).model = Threshold(3, right=1, left=2)
    labels = segmenters.segment_with("lungmask", volume).labels
    for side in LUNGS:
        assert dice(labels == side, truth == side) > 0.9


def test_lungmask_fills_its_lobes_from_the_lungs(lungmask, turned, dice):
    volume, truth = turned
    inferer = segmenters._lungmask_inferer(
        segmenters.LUNGMASK_LOBES_MODEL, fillmodel=segmenters.LUNGMASK_MODEL
    )
    inferer.model = Threshold(6, right=5, left=2)
    inferer.fillmodelm = Threshold(3, right=1, left=2)
    found = segmenters.segment_with("lungmask-lobes", volume)
    for side in LUNGS:
        assert dice(found.labels == side, truth == side) > 0.9
    assert found.lobes is not None
    assert set(np.unique(found.lobes)) == {0, Lobe.RIGHT_LOWER, Lobe.LEFT_LOWER}


@pytest.fixture
def totalsegmentator(monkeypatch, tmp_path):
    """patch(volume, parts) puts dark voxels near the true parts in place of what its networks find.

    Everything around them is the package's own: cropping, resampling, orientation, class numbers.
    """
    api = pytest.importorskip(
        "totalsegmentator.python_api", reason="TotalSegmentator is not installed"
    )
    from totalsegmentator import nnunet
    from totalsegmentator.map_to_binary import class_map, class_map_5_parts

    (tmp_path / "config.json").write_text(
        json.dumps({"totalseg_id": "x", "send_usage_stats": False, "prediction_counter": 0})
    )
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setattr(api, "download_pretrained_weights", lambda task: None)
    rough, organs = 298, 291
    numbers = {
        rough: {name: value for value, name in class_map["total"].items()},
        organs: {name: value for value, name in class_map_5_parts["class_map_part_organs"].items()},
    }

    def patch(volume, named):
        def predict(dir_in, dir_out, task, *args, **options):
            scan = nibabel.load(f"{dir_in}/s01_0000.nii.gz")
            index = np.indices(scan.shape).reshape(3, -1)
            ras = scan.affine[:3, :3] @ index + scan.affine[:3, 3:]
            lps = ras * np.array([[-1.0], [-1.0], [1.0]]) - np.array(volume.origin_mm)[:, None]
            xyz = np.reshape(volume.direction, (3, 3)).T @ lps
            zyx = np.rint(xyz[::-1] / np.array(volume.spacing_mm)[:, None]).astype(int)
            zyx = np.clip(zyx, 0, np.array(volume.hu.shape)[:, None] - 1)
            values = np.zeros(volume.hu.shape, np.uint8)
            for name, part in named.items():
                near = ndimage.binary_dilation(part) & (values == 0)
                values[near | part] = numbers[task][name]
            found = values[tuple(zyx)].reshape(scan.shape) * (scan.get_fdata() < -400)
            made = nibabel.Nifti1Image(found.astype(np.uint8), scan.affine)
            nibabel.save(made, f"{dir_out}/s01.nii.gz")

        monkeypatch.setattr(nnunet, "nnUNetv2_predict", predict)

    return patch


def test_totalsegmentator_gives_lobes_and_trachea_where_they_are(
    totalsegmentator, turned, dice, capfd
):
    volume, truth = turned
    low = np.indices(truth.shape)[0] < truth.shape[0] // 2
    right, left = truth == Tissue.RIGHT_LUNG, truth == Tissue.LEFT_LUNG
    totalsegmentator(
        volume,
        {
            "lung_lower_lobe_right": right & low,
            "lung_middle_lobe_right": right & ~low,
            "lung_lower_lobe_left": left & low,
            "lung_upper_lobe_left": left & ~low,
            "trachea": truth == Tissue.AIRWAY,
        },
    )
    found = segmenters.segment_with("totalsegmentator", volume)
    for tissue in (*LUNGS, Tissue.AIRWAY):
        # A trachea is two voxels wide, and its resampling is theirs.
        least = 0.85 if tissue == Tissue.AIRWAY else 0.97
        assert dice(found.labels == tissue, truth == tissue) > least
    assert found.lobes is not None
    for lobe, part in {
        Lobe.RIGHT_MIDDLE: right & ~low,
        Lobe.RIGHT_LOWER: right & low,
        Lobe.LEFT_UPPER: left & ~low,
        Lobe.LEFT_LOWER: left & low,
    }.items():
        assert dice(found.lobes == lobe, part) > 0.97
    assert capfd.readouterr().out == ""


def test_totalsegmentator_without_its_weights_fails_for_this_scan_alone(
    totalsegmentator, turned, monkeypatch
):
    from totalsegmentator import python_api

    def unreachable(task: int) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(python_api, "download_pretrained_weights", unreachable)
    with pytest.raises(DgmvlcError, match="totalsegmentator failed: no route to host") as caught:
        segmenters.segment_with("totalsegmentator", turned[0])
    assert "weights" in caught.value.hint
