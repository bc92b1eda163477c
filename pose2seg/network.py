"""Pose2Seg (arXiv 1803.10683): backbone and pyramid, affine align, skeleton features, segmentation module.

- The input is a photograph and the joints of its people; nothing here detects people, and nothing ranks them.
- A photograph goes through the backbone once, its people through the segmentation module in chunks.
- Each person stands alone: masks may overlap, and every person gets one, in the order they were given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Batch, Prepared, normalise
from common.errors import UserError
from common.ops.precision import full_precision
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import as_picture
from pose2seg.alignment import affine_align, align
from pose2seg.backbone import STRIDE, Backbone
from pose2seg.config import Config
from pose2seg.geometry import letterbox_matrix, letterboxed, moved_joints, scaling
from pose2seg.losses import pose2seg_losses
from pose2seg.postprocess import instances_of_people, masks_of_people
from pose2seg.segmentation import SegmentationModule
from pose2seg.skeleton import CHANNELS, JOINTS, skeleton_features
from pose2seg.targets import choose_people, random_matrices, window_targets
from pose2seg.templates import published_templates

Joints = Tensor | NDArray[np.floating]  # [n, 17, 3] x, y in the photograph's pixels; visibility 0 no, 1 hidden, 2 seen


class Windows(NamedTuple):
    """Where people are looked at."""

    matrices: Tensor  # [n, 3, 3] network input -> window
    joints: Tensor  # [n, 17, 3] in window pixels


class Pose2Seg(nn.Module):
    """Segments people of known joints: each is brought upright into a window and cut out there."""

    def __init__(self, config: Config, class_names: Sequence[str] = ("person",), category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        self.backbone = Backbone(config.model)
        self.fpn = Pyramid(self.backbone.channels, config.model.fpn_channels)
        self.segmentation = SegmentationModule(config.model, config.model.fpn_channels + CHANNELS)
        self.templates: Tensor
        self.register_buffer("templates", published_templates(), persistent=False)

    def forward(self, images: Tensor, windows: Sequence[Windows]) -> Tensor:
        """Normalised images [N, 3, S, S] and each one's windows -> logits of all people [people, 2, w, w]."""
        return self.segment(self.features(images), windows)

    def features(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> the pyramid's finest level [N, C, S / 4, S / 4]"""
        features: Tensor = self.fpn(self.backbone(images))
        return features

    def windows(self, joints: Tensor, augmentation: Tensor | None = None) -> Windows:
        """The windows of people whose joints [n, 17, 3] are in network-input pixels; moved by matrices [n, 3, 3]."""
        settings = self.config.model
        with full_precision(joints.device):
            to_features = scaling(1 / STRIDE).to(joints)
            on_features = moved_joints(joints, to_features)
            matrices = align(on_features, self.templates, settings.input_size // STRIDE, settings.window).matrices
            if augmentation is not None:
                matrices = augmentation @ matrices
            return Windows(matrices @ to_features, moved_joints(on_features, matrices))

    def segment(self, features: Tensor, windows: Sequence[Windows]) -> Tensor:
        """Features [N, C, F, F] and each image's windows -> logits of all people [people, 2, w, w]."""
        settings = self.config.model
        with full_precision(features.device):
            from_features = scaling(STRIDE).to(features.device)
            matrices = [each.matrices @ from_features for each in windows]
            aligned = affine_align(features.float(), matrices, settings.window)
            joints = torch.cat([each.joints for each in windows])
            skeletons = skeleton_features(joints, settings.window, settings.joint_spread, settings.limb_width)
        logits: Tensor = self.segmentation(torch.cat((aligned, skeletons), dim=1))
        return logits

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: warped into a square as the original does, normalised."""
        side = self.config.model.input_size
        pixels = torch.from_numpy(letterboxed(image, side)).permute(2, 0, 1)
        return Prepared(self.normalised(pixels[None])[0], (image.shape[0], image.shape[1]), (side, side))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a training batch; its targets' masks are at the photographs' own size (see augmentation.py)."""
        device, settings = batch.images.device, self.config.augment
        joints = [target.keypoints for target in batch.targets if target.keypoints is not None]
        chosen = [people.to(device) for people in choose_people([len(each) for each in joints], settings.people)]
        moves = random_matrices(sum(map(len, chosen)), self.config.model.window, settings).to(device)
        of_images = torch.split(moves, [len(people) for people in chosen])
        windows = [
            self.windows(each[people], move) for each, people, move in zip(joints, chosen, of_images, strict=True)
        ]
        return self.losses_in(batch, chosen, windows)

    def losses_in(self, batch: Batch, chosen: Sequence[Tensor], windows: Sequence[Windows]) -> dict[str, Tensor]:
        """The loss of each image's chosen people [n], seen in these windows."""
        targets = []
        for target, people, each in zip(batch.targets, chosen, windows, strict=True):
            masks = target.masks[people]
            to_input = letterbox_matrix(masks.shape[1], masks.shape[2], self.config.model.input_size).to(each.matrices)
            with full_precision(masks.device):
                targets.append(window_targets(masks, each.matrices @ to_input, self.config.model.window))
        return pose2seg_losses(self(self.normalised(batch.images), windows), torch.cat(targets))

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Source],
        joints: Sequence[Joints] | None = None,
        scores: Sequence[Tensor | None] | None = None,
    ) -> list[Instances]:
        """Photographs (files or [H, W, 3] RGB arrays) and their people's joints -> a mask for each person.

        The scores are whoever found the joints to give: without them every person gets 1.
        """
        if joints is None or len(images) != len(joints):
            raise UserError(f"{len(images)} photographs, but joints for {len(joints or ())}: expected them for each")
        device = self.templates.device
        arrays = [as_picture(image) for image in images]
        prepared = [self.preprocess(array) for array in arrays]
        features = self.features(torch.stack([item.tensor for item in prepared]).to(device, non_blocking=True))
        results = []
        for row, (item, source) in enumerate(zip(prepared, images, strict=True)):
            people = checked(joints[row]).to(device)
            masks = self._masks(features[row], people, item.original_size)
            given = None if scores is None else scores[row]
            ranks = torch.ones(len(people), device=device) if given is None else given.to(device)
            results.append(instances_of_people(masks, people, ranks, self.class_names))
            results[-1].image = Path(source) if isinstance(source, str | Path) else arrays[row]
        return results

    def _masks(self, features: Tensor, joints: Tensor, size: tuple[int, int]) -> Tensor:
        """One image's features [C, F, F] and people [n, 17, 3] -> masks [n, H, W], so many people at once."""
        letterbox = letterbox_matrix(*size, self.config.model.input_size).to(joints)
        masks = [torch.zeros((0, *size), dtype=torch.bool, device=joints.device)]
        for some in torch.split(joints, self.config.test.people_at_once):
            if len(some) == 0:
                continue
            windows = self.windows(moved_joints(some, letterbox))
            logits = self.segment(features[None], [windows])
            probabilities = logits.float().softmax(dim=1)[:, 1]
            with full_precision(joints.device):
                masks.append(masks_of_people(probabilities, windows.matrices @ letterbox, size))
        return torch.cat(masks)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 squares [N, 3, S, S]; their border is black, so it doesn't become 0 here."""
        settings = self.config.model
        whole = torch.tensor([images.shape[-2:]], device=images.device).expand(len(images), 2)
        return normalise(images, whole, settings.mean, settings.std)


class Pyramid(nn.Module):
    """[C1..C4] -> P1; the coarser levels' own convolutions are in published checkpoints, but nothing uses them."""

    def __init__(self, inputs: list[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        self.output[1:].requires_grad_(False)  # they get no gradient, which DistributedDataParallel has to know
        for conv in (*self.lateral, *self.output):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[Tensor]) -> Tensor:
        finest: Tensor = self.output[0](self.sums(features)[0])
        return finest

    def levels(self, features: list[Tensor]) -> list[Tensor]:
        """[P1..P4]"""
        return [conv(total) for conv, total in zip(self.output, self.sums(features), strict=True)]

    def sums(self, features: list[Tensor]) -> list[Tensor]:
        """Each level's lateral convolution plus the coarser level's sum, enlarged; the finest first."""
        totals = [self.lateral[-1](features[-1])]
        for conv, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            size = feature.shape[-2:]
            enlarged = F.interpolate(totals[0], size, mode="bilinear", align_corners=False)
            totals.insert(0, conv(feature) + enlarged)
        return totals


def checked(joints: Joints) -> Tensor:
    """Joints as float32 [n, 17, 3]; other shapes are refused."""
    tensor = torch.as_tensor(joints, dtype=torch.float32)
    if tensor.ndim != 3 or tensor.shape[1:] != (JOINTS, 3):
        raise UserError(f"joints of shape {list(tensor.shape)}: expected [people, {JOINTS}, 3] of x, y, visibility")
    return tensor
