"""A run or a set of predictions as one HTML file: scores, curves, pictures and what a model gets wrong.

`examples`, `details`, `mistakes` and `training_pictures` are what a run leaves for it. `report` puts the page together
from the files in a folder, `page` has its tables and pictures, `curves` what its charts show. `python -m
maskworks.report FOLDER` makes a report anew.
"""

from maskworks.report.report import of_folder, of_predictions, of_run

__all__ = ["of_folder", "of_predictions", "of_run"]
