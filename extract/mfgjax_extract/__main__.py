"""`python -m mfgjax_extract`."""

from mfgjax_extract.cli import app

app()
