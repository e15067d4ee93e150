"""What several experiments compute together."""
