"""What is made of finished runs: tables over sweeps, the gallery of figures, the pages of results."""
