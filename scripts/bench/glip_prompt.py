"""What it saves to read a prompt once: images that share it, beside reading it anew for each as the original does.

python scripts/bench/glip_prompt.py [--variant shapes|glip_a_tiny_o365|glip_tiny|..] [--images 4]

The weights are random, which changes no time. Published variants need no vocabulary here: their prompt is spelled in
the built-in one.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import tyro
from _timing import measure, print_table

from glip.config import BUILT_IN, VARIANTS, Config
from glip.network import GLIP
from glip.prompts import class_prompt
from maskworks.command_line import program
from maskworks.command_line.variants import choose

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in ("circle", "square", "star", "ring", "cross", "heart")]


def config_of(variant: str, side: int) -> Config:
    config = choose(VARIANTS, variant)
    test = replace(config.test, short_side=side, long_side=side)
    return replace(config, text=replace(config.text, vocabulary=BUILT_IN), test=test)


def main(
    variant: str = "glip_a_tiny_o365", images: int = 4, side: int = 192, rounds: int = 3, threads: int = 1
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GLIP(config_of(variant, side), NAMES).eval()
    image = np.random.RandomState(0).randint(0, 256, (side, side, 3)).astype(np.uint8)

    def predict(anew: bool, names: list[str]) -> Callable[[], object]:
        prompt = class_prompt(names, model.tokeniser, model.config.text)

        def run() -> None:
            for _ in range(images):
                if anew:
                    model._remembered = None
                model.predict([image], prompt)

        return run

    for names in (NAMES, NAMES[:2]):
        ways = {"read for each image": predict(True, names), "read once": predict(False, names)}
        title = f"{variant}, {images} images, {side} pixels square, {len(names)} names"
        print_table(title, measure(ways, rounds), "read for each image")
        print()


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
