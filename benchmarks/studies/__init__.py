"""What is true and how often: coverage, power, recovery, theory. Speed is one folder up."""
