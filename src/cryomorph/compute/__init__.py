"""What the machine gives: devices, number formats, threads, and the processes of a distributed run."""
