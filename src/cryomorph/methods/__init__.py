"""The methods, one file each: model, stages, checks of options and particles."""
