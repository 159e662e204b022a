"""Effects: what workflows ask for, done in supervised child processes."""
