"""What stands around the models: the built-in data set (`shapes`) and the pages that show a run (`report`)."""
