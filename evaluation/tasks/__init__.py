"""What edit.py can be asked to do: a file here, and one of configs/task, for each."""
