"""How a model is run.

- `settings`, `ranges`: what can be set. `checkpoint`, `configuration`: what is kept.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`: the scores.
- `prediction_batches`: photographs of a list, a folder, a film -> a model's answers.
"""
