"""From files to batches: catalogue -> index -> order and views -> executor. Importing this loads neither torch nor DALI."""
