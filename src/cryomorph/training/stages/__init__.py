"""The stages that recipes are made of, one a file."""
