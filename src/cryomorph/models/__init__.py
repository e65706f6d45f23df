"""Models: encoder, representation and objective combined, and how they are saved and restored."""
