"""What the machine offers: devices, number formats, threads, and the processes of a distributed run."""
