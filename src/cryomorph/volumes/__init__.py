"""Maps: grids, back-projection, FSC, masks and sharpening."""
