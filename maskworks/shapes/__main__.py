"""Write a set of drawn scenes somewhere, to look at: python -m maskworks.shapes --out DIR --count 40 --seed 3."""

from pathlib import Path

import tyro

from common.errors import UserError
from maskworks import shapes
from maskworks.command_line import program


def main(out: Path, split: shapes.Split = "train", count: int = 40, seed: int = 0) -> None:
    """Writes scenes of the built-in dataset, with all their annotations, into a new folder.

    Args:
        out: the folder; it must not exist
        split: train or val; some pairs of colour and shape are in val only
        count: how many images
        seed: another seed gives another dataset
    """
    if out.exists():
        raise UserError(f"{out}: exists already, choose a new folder")
    print(shapes.write(out, split, seed, count).root)


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main))
