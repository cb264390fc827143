"""Traces and loads from other tools' dumps. No torch, no unpickling of arbitrary objects."""
