"""How a model is run.

- `settings`, `configuration`: what can be set, from variants, YAML and flags. `checkpoint`: what is kept.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`, `report_details`: the scores.
- `prediction`, `prediction_batches`, `prediction_files`, `prediction_journal`: answers.
- `commands`: what all commands share.
"""
