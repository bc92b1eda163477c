"""How a model is run.

- `settings`, `configuration`: what can be set, from variants, YAML and flags. `checkpoint`: what is kept.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`, `report_details`: the scores.
- `prediction_batches`: photographs of a list, a folder, a film -> a model's answers.
- `commands`: what train.py and eval.py share.
"""
