"""What a run's step would cost, before it runs."""
