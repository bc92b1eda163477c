"""Data sets with captions: phrases, their names as classes, training captions, recall."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.coco import CocoDataset
from common.data.loader import TrainingSet
from common.errors import UserError
from common.results import Instances
from glip.augmentation import training_transforms
from glip.captioned_data import CaptionedDataset, PhraseClasses, has_captions, singular
from glip.grounding import GroundingSet, GroundingTarget, list_of_names, writer
from glip.scoring import ranks_hit
from glip.tokeniser import Tokeniser
from maskworks import shapes
from tests.glip.small import small_config

TOKENISER = Tokeniser("built-in", 256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return shapes.ensure("val", seed=3, count=8, cache=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def dataset(made):
    return CaptionedDataset([made.images], [made.captions])


def test_files_with_captions_are_told_from_others(made):
    assert has_captions(made.captions)
    assert not has_captions(made.instances)


def test_each_box_belongs_to_the_phrase_that_the_file_says(made, dataset):
    content = json.loads(made.captions.read_text())
    texts = {image["id"]: image["caption"] for image in content["images"]}
    expected = sorted(
        (entry["image_id"], texts[entry["image_id"]][slice(*entry["tokens_positive"][0])], *entry["bbox"][:2])
        for entry in content["annotations"]
    )
    found = []
    for index in range(len(dataset)):
        sample, caption = dataset[index], dataset.caption(index)
        for label, box in zip(sample.labels, sample.boxes, strict=True):
            ((start, end),) = caption.phrases[label]
            found.append((sample.image_id, caption.text[start:end], *box[:2].tolist()))
    assert sorted(found) == expected


def test_phrases_are_classes_in_the_singular(dataset):
    classes = PhraseClasses(dataset)
    assert all(len(name.split()) in (2, 3) and not name.startswith("people") for name in classes.class_names)
    assert classes.held_out <= {f"{colour} {shape}" for colour, shape in shapes.HELD_OUT}
    content = classes.annotations_json()
    assert len(content["annotations"]) == len(dataset.owners)
    assert [singular(word) for word in ("circles", "crosses", "people", "grass", "bus")] == [
        "circle",
        "cross",
        "person",
        "grass",
        "bus",
    ]


@pytest.mark.parametrize("listed", [0.0, 1.0])
def test_training_captions_name_every_box_by_its_words(dataset, listed):
    config = small_config()
    config.augment = replace(config.augment, listed=listed, flip=1.0)
    inner = TrainingSet(dataset, training_transforms(config.augment), seed=0)
    training_set = GroundingSet(inner, writer(dataset, config, TOKENISER), TOKENISER)
    for index in range(len(dataset)):
        _, target = training_set[0, index]
        assert isinstance(target, GroundingTarget)
        names = [dataset.name(index, owner) for owner in dataset.owners_of(index)]
        ids = TOKENISER.encode(target.caption).ids
        for row, name in zip(target.positive, names, strict=True):
            words = [TOKENISER.tokenizer.id_to_token(ids[place]) for place in row.nonzero().flatten()]
            assert " ".join(singular(word) for word in words) == name


def test_the_same_seed_gives_the_same_captions(dataset):
    config = small_config()
    config.augment = replace(config.augment, listed=0.5)
    captions = []
    for _ in range(2):
        inner = TrainingSet(dataset, training_transforms(config.augment), seed=0)
        training_set = GroundingSet(inner, writer(dataset, config, TOKENISER), TOKENISER)
        captions.append([training_set[epoch, index][1].caption for epoch in range(2) for index in range(4)])
        torch.rand(7)
    assert captions[0] == captions[1]
    assert captions[0][:4] != captions[0][4:]


def test_class_lists_keep_what_is_there_and_drop_what_does_not_fit():
    config = small_config()
    every = replace(config.augment, negatives=-1)
    names = [f"red circle blue star {letter}" for letter in "abcdefghij"]
    whole = list_of_names([7, 2], names, every, config.text, TOKENISER)
    assert whole.labels == tuple(range(10))
    short = list_of_names([7, 2], names, every, replace(config.text, max_tokens=20), TOKENISER)
    assert {2, 7} <= set(short.labels)
    assert TOKENISER.length(short.text) <= 20
    torch.manual_seed(0)
    few = replace(config.augment, negatives=3, shuffle=True)
    drawn = [list_of_names([7, 2], names, few, config.text, TOKENISER) for _ in range(30)]
    assert {len(each.labels) for each in drawn} == {3, 4, 5}
    assert len({each.labels for each in drawn}) > 10


def test_coco_annotations_become_grounding_with_all_classes(made):
    dataset, config = CocoDataset([made.images], [made.instances]), small_config()
    inner = TrainingSet(dataset, training_transforms(config.augment), seed=0)
    _, target = GroundingSet(inner, writer(dataset, config, TOKENISER), TOKENISER)[0, 0]
    assert target.caption == ". ".join(dataset.class_names)
    ids = TOKENISER.encode(target.caption).ids
    for label, row in zip(target.labels, target.positive, strict=True):
        assert [TOKENISER.tokenizer.id_to_token(ids[place]) for place in row.nonzero()] == [dataset.class_names[label]]


def test_boxes_end_at_their_last_pixel_before_and_after_mirroring(made):
    dataset, config = CaptionedDataset([made.images], [made.captions]), small_config()
    sizes = replace(config.augment, short_sides=(int(dataset.sizes[0].min()),), long_side=999)
    plain = TrainingSet(dataset, training_transforms(replace(sizes, flip=0.0)), seed=0)[0, 0][1]
    mirrored = TrainingSet(dataset, training_transforms(replace(sizes, flip=1.0)), seed=0)[0, 0][1]
    sample = dataset[0]
    assert np.array_equal(plain.boxes.numpy(), sample.boxes - [0, 0, 1, 1])
    last = sample.image.shape[1] - 1
    assert torch.equal(mirrored.boxes[:, 0], last - plain.boxes[:, 2])


def test_a_phrase_is_found_by_one_of_its_best_boxes():
    truth = [torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[50.0, 50.0, 60.0, 60.0]])]
    wrong, right = [80.0, 80.0, 90.0, 90.0], [1.0, 0.0, 11.0, 10.0]
    boxes = torch.tensor([right, wrong, wrong, wrong, right])
    labels = torch.tensor([0, 1, 1, 1, 1])
    found = Instances(torch.linspace(1, 0.5, 5), labels, boxes, None, (100, 100), ("a", "b"))
    assert ranks_hit(found, truth) == [[True, True, True], [False, False, False]]
    truth[1] = torch.tensor([right])
    assert ranks_hit(found, truth)[1] == [False, True, True]


def test_faults_are_named(tmp_path, made):
    content = json.loads(made.captions.read_text())
    content["annotations"][0]["tokens_positive"] = "red circle"
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="tokens_positive"):
        CaptionedDataset([made.images], [tmp_path / "captions.json"])
    with pytest.raises(UserError, match="expected one"):
        CaptionedDataset([made.images], [made.captions, made.captions])
