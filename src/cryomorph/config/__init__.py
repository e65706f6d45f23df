"""What a user may ask for: frozen dataclasses, a sentence for each field. Imports no torch."""
