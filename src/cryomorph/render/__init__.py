"""Pictures of maps: isosurfaces, ray casting, movies."""
