"""Numerics that more than one package stands on."""
