"""From a checkpoint and options to a program, and the model that holds it."""
