"""Encoder, representation and objective put together, and the methods by name."""
