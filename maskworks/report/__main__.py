"""Make report.html of a run or of predictions anew: python -m maskworks.report FOLDER..."""

from pathlib import Path
from typing import Annotated

import tyro

from maskworks import report
from maskworks.command_line import program


def main(folders: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Make report.html of runs or predictions anew, from the files in their folders."""
    for folder in folders:
        report.of_folder(folder)


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main))
