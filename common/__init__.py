"""What every model package needs, and nothing that only one model needs."""
