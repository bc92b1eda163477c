"""What train.py and eval.py do around the loop and the scores.

`runs` opens data sets, makes a run's folder, says what goes on and writes what is found; `score_tables` are on the
terminal.
"""

from maskworks.commands.runs import (
    BOXES,
    INSTANCES,
    Evaluated,
    Scoring,
    build_network,
    evaluate,
    evaluation_folder,
    files_of,
    keep_existing,
    model_to_evaluate,
    open_as,
    open_dataset,
    refuse_other_classes,
    score,
    start,
    train,
    write_scores,
)

__all__ = [
    "BOXES",
    "INSTANCES",
    "Evaluated",
    "Scoring",
    "build_network",
    "evaluate",
    "evaluation_folder",
    "files_of",
    "keep_existing",
    "model_to_evaluate",
    "open_as",
    "open_dataset",
    "refuse_other_classes",
    "score",
    "start",
    "train",
    "write_scores",
]
