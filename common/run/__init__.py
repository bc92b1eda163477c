"""How a model is run: settings and checkpoints, training, evaluation, prediction, and what the commands share."""
