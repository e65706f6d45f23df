"""Pure functions on tensors: the Fourier disk, CTF, poses, slices, noise. See docs/conventions.md."""
