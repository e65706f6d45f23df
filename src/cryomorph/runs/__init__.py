"""What a run leaves behind, and how to read it again."""
