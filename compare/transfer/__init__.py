"""Transfer learning: from scratch, linear probe, fine-tuning."""
