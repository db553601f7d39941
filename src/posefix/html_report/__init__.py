"""What an estimator's poses were and became, as one HTML file that needs no network."""
