"""What training minimises: likelihood, divergence from the prior, and the schedules of their weights."""
