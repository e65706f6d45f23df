"""What each method is: its model and its stages, one file a method."""
