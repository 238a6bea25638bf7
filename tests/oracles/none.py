"""The base model."""

COUNT = 0
