"""How a model is run.

- `settings`, `configuration`: what can be set, from variants, YAML and flags. `checkpoint`: what is kept.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`: the scores.
- `prediction_batches`: photographs of a list, a folder, a film -> a model's answers.
- `command_line`, `program`: flags, and errors as lines, of any command.
"""
