"""Photographs with masks: folders as DUTS has them, COCO files, and how training scales and crops both alike."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from common.data.coco import CocoDataset
from common.errors import UserError
from common.run.settings import Images, Training
from refinemask_psg.u2net.augmentation import RescaleAndCrop
from refinemask_psg.u2net.config import Augment, SaliencyData
from refinemask_psg.u2net.data import open_saliency
from tests.running import small_data


@pytest.fixture
def duts(tmp_path):
    """Three photographs of different sizes, each with a white rectangle as its mask."""
    for folder in ("image", "mask"):
        (tmp_path / folder).mkdir()
    for number, (height, width) in enumerate([(30, 40), (50, 20), (25, 25)]):
        noise = np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "image" / f"{number}.jpg")
        mask = np.zeros((height, width), np.uint8)
        mask[5:15, 4:12] = 255
        mask[20, :] = 100
        Image.fromarray(mask).save(tmp_path / "mask" / f"{number}.png")
    return tmp_path


def opened(folder, faulty="stop", limit=0):
    data = SaliencyData(val=Images([str(folder / "image")], [str(folder / "mask")]), faulty=faulty)
    return open_saliency(data, "val", Training(limit=limit))


def test_photographs_and_masks_are_paired_by_name(duts):
    found = opened(duts)
    assert [path.name for path in found.paths] == ["0.jpg", "1.jpg", "2.jpg"]
    assert found.sizes.tolist() == [[30, 40], [50, 20], [25, 25]]
    for number, path in enumerate(found.paths):
        expected = np.asarray(Image.open(duts / "mask" / f"{path.stem}.png"))
        assert np.array_equal(found[number].semantic, expected)  # also what is half salient
        assert found[number].image.shape[:2] == expected.shape
    assert len(opened(duts, limit=2)) == 2


def without_mask(folder):
    (folder / "mask/1.png").unlink()


def without_photograph(folder):
    (folder / "image/1.jpg").unlink()


def of_another_size(folder):
    Image.new("L", (7, 7)).save(folder / "mask/1.png")


def in_colour(folder):
    Image.new("RGB", (20, 50), (200, 10, 10)).save(folder / "mask/1.png")


def no_image(folder):
    (folder / "mask/1.png").write_text("nothing")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_mask, "image/1.jpg: no mask of this name in"),
        (without_photograph, "mask/1.png: no photograph of this name in"),
        (of_another_size, "mask/1.png: 7 x 7, but .*image/1.jpg is 20 x 50"),
        (in_colour, "mask/1.png: a mask in colour"),
        (no_image, "mask/1.png: not an image"),
    ],
)
def test_a_file_without_a_counterpart_that_fits_stops_or_is_left_out(duts, spoil, said, capsys):
    spoil(duts)
    with pytest.raises(UserError, match=said) as error:
        opened(duts)
    assert "\n" not in str(error.value)
    assert "--data.faulty skip" in str(error.value)
    assert [path.name for path in opened(duts, faulty="skip").paths] == ["0.jpg", "2.jpg"]
    assert "left out: 1 files" in capsys.readouterr().err


def test_a_grey_mask_in_three_colours_is_grey(duts):
    grey = np.asarray(Image.open(duts / "mask/1.png"))
    Image.open(duts / "mask/1.png").convert("RGB").save(duts / "mask/1.png")
    assert np.array_equal(opened(duts)[1].semantic, grey)


def test_two_photographs_of_one_name_stop(duts):
    Image.new("RGB", (40, 30)).save(duts / "image/0.png")
    with pytest.raises(UserError, match="has the same name"):
        opened(duts)


@pytest.mark.parametrize("missing", ["image", "mask"])
def test_a_folder_without_images_is_named(duts, missing):
    for path in (duts / missing).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f"{missing}: no image in this folder"):
        opened(duts)


def test_the_foreground_of_a_coco_file_is_all_its_objects(tmp_path):
    flags = small_data(tmp_path)
    images, annotations = flags[5], flags[7]
    found = open_saliency(SaliencyData(val=Images([images], [annotations])), "val", Training())
    dataset = CocoDataset([images], [annotations])
    assert len(found) == len(dataset)
    for number in range(len(found)):
        masks = dataset[number].masks
        assert np.array_equal(found.matte(number) == 255, masks.any(axis=0))
        assert set(np.unique(found.matte(number))) <= {0, 255}


@pytest.mark.parametrize(("horizontal", "vertical"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_photograph_and_mask_are_scaled_cropped_and_mirrored_alike(horizontal, vertical):
    """A mask that is the photograph's red channel still is afterwards, where nothing has to be interpolated."""
    red = np.random.RandomState(0).randint(0, 256, (32, 32)).astype(np.uint8)
    image = torch.from_numpy(np.stack([red, red // 2, red // 3]))
    items = {"image": tv_tensors.Image(image), "semantic": tv_tensors.Mask(torch.from_numpy(red)), "labels": 1}
    torch.manual_seed(0)
    found = RescaleAndCrop(Augment(32, 24, horizontal, vertical))(items)
    assert found["image"].shape == (3, 24, 24)
    assert torch.equal(found["image"][0], found["semantic"])
    axes = [axis for axis, flipped in ((0, vertical), (1, horizontal)) if flipped]
    back = found["semantic"].as_subclass(torch.Tensor).flip(axes).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(red, (24, 24))
    assert (windows == back).all(axis=(2, 3)).any()


def test_masks_keep_their_values_when_they_are_scaled():
    """Nearest neighbour at the pixels' centres: of every 3 x 3 pixels the middle one."""
    grey = torch.arange(81, dtype=torch.uint8).view(9, 9)
    items = {"image": tv_tensors.Image(grey.expand(3, 9, 9)), "semantic": tv_tensors.Mask(grey)}
    found = RescaleAndCrop(Augment(3, 3, 0, 0))(items)
    assert torch.equal(found["semantic"].as_subclass(torch.Tensor), grey[1::3, 1::3])
