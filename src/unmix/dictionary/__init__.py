"""The sparse autoencoder: its weights, its start, its files. No optimizer, no data."""
