"""GLIP's cases without a network: prompts, and detections from made-up answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.data.batches import Prepared
from common.errors import UserError
from glip.boxes import anchors_of
from glip.config import BERT, Config, Text
from glip.dynamic_head import Answers
from glip.phrases import noun_phrases, without_punctuation
from glip.postprocess import detections, instances, phrase_tokens
from glip.prompts import Prompt, Wording, class_prompt, clean, occurrences
from glip.sizes import fit_short_side
from glip.tokeniser import Tokeniser
from tests.parity import glip
from tests.parity.case import Array, Case
from tests.parity.networks import array

UNLIMITED = 10**9


def compute(case: Case, device: str) -> dict[str, Array]:
    return prompts(case) if "class_prompts" in case.spec else postprocess(case, torch.device(device))


# --- prompts


def prompts(case: Case) -> dict[str, Array]:
    """The maps that the case holds; the rest of its expectations is in its spec, and checked right here."""
    settings = case.spec["settings"]
    tokeniser = Tokeniser(BERT, settings["max_query_len"])
    if faults := disagreements(case.spec, tokeniser):
        raise UserError(f"{case.folder}: {len(faults)} prompts are read otherwise, the first {faults[0]}")
    computed = {}
    for kind, output in (("free_captions", "free/{}/positive_map"), ("training_maps", "maps/{}")):
        for index, entry in enumerate(case.spec[kind]):
            positions = tokeniser.positions(entry["caption"], as_spans(entry["tokens_positive"]))
            computed[output.format(index)] = normalised(positions, settings["max_query_len"])
    return computed


def normalised(positions: Sequence[Sequence[int]], length: int) -> Array:
    """[phrases, length]: each phrase's tokens, adding up to one as in the original's maps."""
    rows = np.zeros((len(positions), length), np.float32)
    for row, places in enumerate(positions):
        rows[row, [place for place in places if place < length]] = 1
    return rows / (rows.sum(axis=1, keepdims=True) + np.float32(1e-6))


def as_spans(phrases: Sequence[Sequence[Sequence[int]]]) -> list[list[tuple[int, int]]]:
    return [[(start, end) for start, end in parts] for parts in phrases]


def disagreements(spec: dict[str, Any], tokeniser: Tokeniser) -> list[str]:
    """What the spec says of prompts and we don't."""
    pairs = [(f"clean {name!r}", clean(name), expected) for name, expected in spec["clean_name"].items()]
    pairs += [
        (f"punctuation {text!r}", without_punctuation(text), expected)
        for text, expected in spec["remove_punctuation"].items()
    ]
    for entry in spec["resize_sizes"]:
        width, height = entry["wh"]
        size = fit_short_side(height, width, entry["min_size"], entry["max_size"])
        pairs.append((f"size of {entry['wh']}", [size[1], size[0]], entry["out_wh"]))
    for entry in spec["class_prompts"]:
        pairs += class_pairs(entry, tokeniser)
    for entry in spec["free_captions"]:
        entities = noun_phrases([(word, tag) for word, tag in entry["pos_tags"]])
        spans = [[list(span)] for entity in entities for span in occurrences(entry["caption"], entity)]
        pairs.append((f"phrases of {entry['caption']!r}", entities, entry["entities"]))
        pairs.append((f"spans in {entry['caption']!r}", spans, entry["tokens_positive"]))
    for entry in spec["custom_entities"]:
        spans = [[custom_span(entry["caption"], entity)] for entity in entry["custom_entity"]]
        pairs.append((f"entities in {entry['caption']!r}", spans, entry["tokens_positive"]))
    for kind in ("free_captions", "demo_lists", "custom_entities", "training_maps"):
        for entry in spec[kind]:
            ids = tokeniser.tokens([entry["caption"]]).ids[0].tolist()
            positions = tokeniser.positions(entry["caption"], as_spans(entry["tokens_positive"]))
            expected = entry.get("nonzero_tokens") or list(entry["positive_map_label_to_token"].values())
            pairs.append((f"ids of {entry['caption']!r}", ids, entry["input_ids"]))
            pairs.append((f"tokens of {entry['caption']!r}", positions, expected))
    return [f"{what}: {ours}, expected {theirs}" for what, ours, theirs in pairs if ours != theirs]


def class_pairs(entry: dict[str, Any], tokeniser: Tokeniser) -> list[tuple[str, object, object]]:
    """Captions, ids and maps of one list of classes, ours and the case's."""
    chunk = entry["chunk_size"] if entry["chunk_size"] > 0 else UNLIMITED
    settings = Text(separator=entry["separation_tokens"], chunk=chunk)
    wordings = [Wording(each["name"], each["prefix"], each["suffix"]) for each in entry["caption_prompt"] or ()]
    prompt = class_prompt(entry["class_names"], tokeniser, settings, wordings, entry["additional_labels"] or ())
    return [
        (f"{key} of {entry['title']!r}", ours, theirs)
        for key, ours, theirs in zip(
            ("captions", "lengths", "ids", "maps"),
            chunk_facts(prompt, entry["class_ids"], tokeniser),
            zip(*(chunk_entry(each) for each in entry["chunks"]), strict=True),
            strict=True,
        )
    ]


def chunk_facts(prompt: Prompt, class_ids: Sequence[int], tokeniser: Tokeniser) -> list[tuple[Any, ...]]:
    facts = []
    for caption in prompt.captions:
        positions = tokeniser.positions(caption.text, caption.phrases)
        found = {
            str(class_ids[label]): places for label, places in zip(caption.labels, positions, strict=True) if places
        }
        ids = tokeniser.tokens([caption.text]).ids[0].tolist()
        facts.append((caption.text, tokeniser.length(caption.text), ids, found))
    return list(zip(*facts, strict=True))


def chunk_entry(chunk: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("caption", "n_tokens_before_truncation", "input_ids_truncated_to_256", "positive_map_label_to_token")
    return tuple(chunk[key] for key in keys)


def custom_span(caption: str, entity: dict[str, Any]) -> list[int]:
    """Bounds as given, or the first place that the words stand at."""
    if "char_bounds" in entity:
        return list(entity["char_bounds"])
    start = caption.index(entity["span"])
    return [start, start + len(entity["span"])]


# --- detections


def postprocess(case: Case, device: torch.device) -> dict[str, Array]:
    settings, inputs = case.spec["settings"], {key: torch.from_numpy(value) for key, value in case.inputs.items()}
    answers = Answers(
        *(
            [inputs[f"{kind}/{level}"].to(device) for level in glip.LEVELS]
            for kind in ("token_logits", "bbox_pred", "centerness")
        ),
        text=torch.zeros(0, device=device),
    )
    sizes = [(level.shape[-2], level.shape[-1]) for level in answers.deltas]
    scale = settings["anchors"]["sizes"][0] / settings["anchors"]["strides"][0]
    computed = {"anchors": array(torch.cat(anchors_of(sizes, scale, device)))}
    positions: dict[str, list[int]] = settings["positive_map_label_to_token"]
    labels = torch.tensor([int(label) - 1 for label in positions], device=device)
    tokens = phrase_tokens(list(positions.values()), answers.token_logits[0].shape[2], device)
    test = glip.with_settings(Config(), settings).test
    for row, (height, width) in enumerate(settings["image_hw"]):
        original = case.spec["outputs"][f"det{row}/boxes_network"].get("original_wh", [width, height])
        prepared = Prepared(torch.zeros(0), (original[1], original[0]), (height, width))
        found = detections(answers, row, tokens, prepared, scale, test)
        result = instances([found._replace(labels=labels[found.labels])], prepared, tuple(positions))
        prefix = f"det{row}/"
        whole = glip.findings(case, result, prepared.original_size, prepared.resized_size, prefix)
        computed |= {name: values for name, values in whole.items() if name.startswith(prefix)}
    return computed
