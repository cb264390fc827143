"""Does mfgjax work here: what it finds on this machine, and a self-test against other methods."""
