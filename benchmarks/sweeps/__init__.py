"""What spreading a sweep over processes and nodes costs, and what it survives."""
