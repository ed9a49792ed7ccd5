"""What every kind of run shares: its folder, its tasks and scores, and how it becomes a record."""
