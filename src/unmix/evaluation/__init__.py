"""What a trained SAE is worth, on documents it never saw. Reads SAE folders, never a training."""
